class TcpServer:
    """A server process on ports of this machine, with any other arguments."""

    port: int
    bus_port: int
    redis: Redis
    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """Return what it is started with, besides the port."""
        return [
            *("--save", ""),
            *("--appendonly", "no"),
            *("--repl-diskless-sync-delay", "0"),
            *("--dir", str(self.directory)),
        ]

    async def start(self) -> None:
        """Start it, on other ports if somebody else has taken these meanwhile.

        Valkey neither lets the system choose its ports nor takes a socket that is open already.
        """
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.port, self.bus_port = _free_ports()
                self.redis = Redis(host="127.0.0.1", port=self.port, retry=Retry(NoBackoff(), 0))
                address = ("--bind", "127.0.0.1", "--port", str(self.port))
                self._process = subprocess.Popen(
                    [server_path(), *self.arguments, *address], stdout=subprocess.DEVNULL
                )
                while self._process.poll() is None:
                    # Whoever else may have the port need not answer at all: ask again.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN_S):
                            if await answers(self.redis, self._process.pid):
                                return
                            await asyncio.sleep(0.02)
                await self.redis.aclose()

    async def ask(self, *command: object) -> Any:
        """Run a command."""
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """End it as a crash would, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            await self.redis.aclose()


def _free_ports() -> tuple[int, int]:
    """Return ports that the system has just given away, and may give to others before long."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        return first.getsockname()[1], second.getsockname()[1]


