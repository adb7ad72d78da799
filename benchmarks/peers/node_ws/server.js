// A broadcast with `ws`, as its README shows it. Argument: the port.
// https://github.com/websockets/ws#server-broadcast
const { WebSocketServer, WebSocket } = require('ws');

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2]) });

server.on('connection', (socket, request) => {
  socket.on('error', () => {});
  if (request.url === '/echo') {
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
    return;
  }
  socket.on('message', (data) => {
    const text = JSON.stringify(JSON.parse(data));
    server.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) client.send(text);
    });
  });
});
