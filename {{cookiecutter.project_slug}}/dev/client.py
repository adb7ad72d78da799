"""A chat in the terminal, on the Python client. ``make client``; see ``/help``."""

import asyncio
import json
import os
import readline
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
# {% if cookiecutter.rooms %}
from contextlib import AsyncExitStack, ExitStack, suppress
# {% else %}
from contextlib import ExitStack, suppress
# {% endif %}
from io import TextIOWrapper
from threading import Thread

from app.settings import Settings
# {% if cookiecutter.rooms %}
from client import ABNORMAL, Connection, Ended, Message, RequestError, Status, connect
# {% else %}
from client import ABNORMAL, Connection, Ended, RequestError, Status, connect
# {% endif %}

from . import credentials
from .processes import run_until_signal
from .urls import websocket_url
# {% if cookiecutter.rooms %}

JOIN_TIMEOUT_S = 10.0
# {% endif %}


class Chat:
    """The chat of one user. Each public method is a command, its docstring the text of /help."""

    def __init__(self, ws: Connection) -> None:
        self._ws = ws
        # {% if cookiecutter.rooms %}
        self._room: str | None = None
        self._rooms: dict[str, tuple[AsyncExitStack, asyncio.Task[None]]] = {}
        # {% endif %}
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            f"/{name}": getattr(self, name) for name in vars(Chat) if not name.startswith("_")
        }
        readline.parse_and_bind("tab: complete")
        readline.set_completer_delims(" ")
        readline.set_completer(self._complete)

    def _complete(self, start: str, number: int) -> str | None:
        matches = [f"{name} " for name in self._commands if name.startswith(start)]
        return matches[number] if number < len(matches) else None

    async def help(self, _: str) -> None:
        """List the commands."""
        for name, command in self._commands.items():
            print(f"{name:10} {command.__doc__}")
        # {% if cookiecutter.rooms %}
        print('{"type": …} sends any command. Other lines go to your room, or else to everybody.')
        # {% else %}
        print('{"type": …} sends any command. Other lines go to everybody.')
        # {% endif %}

    async def to(self, rest: str) -> None:
        """Send to one user: /to USER TEXT."""
        user, _, text = rest.partition(" ")
        answer = await self._ws.request("send", to=user, data=text)
        if not answer.get("reached", True):
            print(f"! {user} is not connected")

    async def ping(self, _: str) -> None:
        """Measure the round trip."""
        print(f"* {await self._ws.ping() * 1000:.1f} ms")
    # {% if cookiecutter.rooms %}

    async def join(self, name: str) -> None:
        """Enter a room, see its last messages, and send your lines to it: /join ROOM."""
        if name not in self._rooms:
            stack = AsyncExitStack()
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                room = await stack.enter_async_context(self._ws.room(name, events=True, last=20))

            async def show() -> None:
                try:
                    async for message in room:
                        if message.type == "rejoined":
                            await self._show_members(name)
                        elif message.type == "gap":
                            print(f"! {name}: some messages may be missing", flush=True)
                        else:
                            show_message(name, message)
                except RequestError as failure:
                    print(f"! {name}: {printable(failure)}")
                    self._forget(name)
                except Ended:
                    pass  # the status says so

            self._rooms[name] = stack, asyncio.create_task(show())
        self._room = name
        await self._show_members(name)

    async def _show_members(self, name: str) -> None:
        try:
            await self.who(name)
        except RequestError as failure:
            if failure.code == "forbidden":
                print(f"* in {name}; this room has no presence", flush=True)
            else:
                print(f"! {failure}", flush=True)

    async def leave(self, name: str) -> None:
        """Leave your room, or another one: /leave ROOM."""
        room = name or self._room
        if room not in self._rooms:
            print(f"! you are not in {room or 'a room'}")
            return
        stack, showing = self._rooms[room]
        showing.cancel()
        await stack.aclose()
        self._forget(room)

    def _forget(self, name: str) -> None:
        self._rooms.pop(name, None)
        if self._room == name:
            self._room = next(iter(self._rooms), None)
        print(f"* your lines go to {self._room or 'everybody'}", flush=True)

    async def who(self, name: str) -> None:
        """List the users in your room, or in another one: /who ROOM."""
        room = name or self._room
        if not room:
            print("! you are not in a room")
            return
        answer = await self._ws.request("presence", room=room)
        users = ", ".join(member["user"] for member in answer["members"])
        more = answer["total"] - len(answer["members"])
        print(f"* in {room}: {users}{f' and {more} more' if more else ''}")
    # {% endif %}

    async def _say(self, text: str) -> None:
        # {% if cookiecutter.rooms %}
        if self._room:
            await self._ws.request("publish", room=self._room, data=text, echo=True)
            return
        # {% endif %}
        await self._ws.request("broadcast", data=text, echo=True)

    async def _send_json(self, line: str) -> None:
        command = json.loads(line)
        answer = await self._ws.request(command.pop("type"), **command)
        if "id" in command:
            print(f"< {json.dumps(answer | {'id': command['id']})}")

    async def __call__(self, line: str) -> None:
        """Execute a typed line."""
        name, _, rest = line.partition(" ")
        try:
            if line.startswith("{"):
                await self._send_json(line)
            elif name in self._commands:
                await self._commands[name](rest.strip())
            elif name.startswith("/"):
                print(f"! there is no {name}; /help lists the commands")
            elif line:
                await self._say(line)
        except RequestError as failure:
            print(f"! {failure}")
        # {% if cookiecutter.rooms %}
        except TimeoutError:
            print(f"! timeout: no answer to the join within {JOIN_TIMEOUT_S:g} s")
        # {% endif %}
        except (ValueError, KeyError, TypeError, RecursionError) as mistake:
            print(f"! that is no command: {mistake!r}")


def printable(text: object) -> str:
    """Return a text with escapes for characters that could control the terminal."""
    shown = (each if each.isprintable() else json.dumps(each)[1:-1] for each in str(text))
    return "".join(shown)


def as_json(value: object) -> str:
    """Return the JSON of a value, to print."""
    return printable(json.dumps(value, ensure_ascii=False))


# {% if cookiecutter.rooms %}
def show_message(room: str, message: Message) -> None:
    """Print a message, an event or another frame of a room."""
    said = as_json(message.data)
    match message.type:
        case "message":
            what = f"{message.user or 'the backend'}: {said}"
        case "joined" | "left":
            what = f"{message.user} has {message.type}"
        case "updated":
            what = f"{message.user} is now {said}"
        case _:  # a frame of your own
            what = f"{message.type}: {said}"
    print(f"{room} {what}", flush=True)


# {% endif %}
def show_status(ws: Connection, status: Status) -> None:
    """Print the status, with the user's name when online, and a hint if no service answers."""
    user = f" as {ws.welcome['user']}" if ws.welcome and status.state == "online" else ""
    again = "" if status.pause_s is None else f"; trying again in {status.pause_s:.1f} s"
    why = "" if status.code is None else f": {status.code} {printable(status.reason)}"
    print(f"* {status.state}{user}{why}{again}", flush=True)
    is_first = status.state == "offline" and status.attempt == 1 and status.code == ABNORMAL
    if is_first and not status.reason.startswith(("the server refuses", "connection lost")):
        print("* the service does not answer; is it running? (make run)", flush=True)


async def typed_lines() -> AsyncIterator[str]:
    """Yield typed lines. A daemon thread reads them, since it does not delay the exit."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def read() -> None:
        try:
            with suppress(EOFError):
                while True:
                    loop.call_soon_threadsafe(lines.put_nowait, input())
        finally:
            loop.call_soon_threadsafe(lines.put_nowait, None)

    Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line.strip()


async def show_frames(ws: Connection) -> None:
    """Print messages to the user or to all, and frames of your own."""
    async for frame in ws:
        print(f"< {as_json(frame)}", flush=True)


async def talk(ws: Connection) -> None:
    """Execute typed lines until the input ends."""
    chat = Chat(ws)
    async for line in typed_lines():
        await chat(line)


async def main(user: str) -> None:
    """Chat with the service that `.env` describes, until the input ends or the service refuses."""
    settings = Settings.load()
    handshake = await credentials(settings, user)

    async def token() -> str:
        return (await credentials(settings, user)).token

    connection = connect(
        websocket_url(settings),
        token,
        origin=handshake.headers.get("Origin"),
        on_status=lambda status: show_status(connection, status),
    )
    async with connection as ws:
        tasks = [asyncio.create_task(each) for each in (show_frames(ws), talk(ws))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        for task in done:
            task.result()


def run(user: str) -> str | None:
    """Run the chat; return why it failed."""
    try:
        run_until_signal(main(user))
    except Ended as end:
        return f"error: {end}"
    except OSError as failure:
        return f"error: {failure}; is the service running? (make run)"
    return None


if __name__ == "__main__":
    # Bytes or characters that the locale cannot represent must not end the chat.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)
    with ExitStack() as stack:
        if sys.stdin.isatty():  # an `input` that still waits has changed the mode of the terminal
            mode = termios.tcgetattr(sys.stdin)
            stack.enter_context(suppress(termios.error))  # after SIGHUP, the terminal is gone
            stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, mode)
        error = run(sys.argv[1] if len(sys.argv) > 1 else "alice")
    if error is not None:
        print(error, file=sys.stderr)
    sys.stdout.flush()
    # The interpreter cannot end normally while a thread reads standard input.
    os._exit(error is not None)
