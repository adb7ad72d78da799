// A room of Socket.IO. Argument: the port. https://socket.io/docs/v4/rooms/
const { createServer } = require('http');
const { Server } = require('socket.io');

const http = createServer();
const io = new Server(http);

io.on('connection', (socket) => {
  socket.on('join', (done) => {
    socket.join('room');
    done('ok');
  });
  socket.on('message', (data) => io.to('room').emit('message', data));
});

http.listen(Number(process.argv[2]), '127.0.0.1');
