"""Measures scenarios in interleaved rounds, so that drift affects all servers alike."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain

from proof.project import Unavailable

from .measurements import Effort, Subject, Trial
from .processes import Cores, Failed
from .progress import Progress
from .results import MAX_FOREIGN, Outcome, Row, Sample
from .scenarios import Scenario
from .servers import THIS, Running, Server, ask_redis, running, running_valkey

MAX_REPEATS = 2


@contextmanager
def stage(scenario: Scenario, cores: Cores) -> Iterator[Callable[[Subject], Running]]:
    """Yield a function that returns a subject's running server, starting it on first use.

    Raises:
        Failed: the scenario needs a Redis server, which does not start.
        Unavailable: it needs one, and none is installed.
    """
    with ExitStack() as shared, ExitStack() as started:
        env = {}
        if scenario.redis:
            env["REDIS_URL"] = shared.enter_context(running_valkey(cores.generator))
        found: dict[str, Running] = {}

        def server(subject: Subject) -> Running:
            if scenario.fresh:
                started.close()
                found.clear()
                if scenario.redis:
                    ask_redis(env["REDIS_URL"], "FLUSHALL")
            if subject.name not in found:
                core = cores.server if scenario.pinned else None
                start = running(subject.server, core, processes=scenario.processes, env=env)
                found[subject.name] = started.enter_context(start)
            return found[subject.name]

        yield server


class Bench:
    """Runs scenarios on two cores, and reports the progress."""

    def __init__(self, scenarios: Sequence[Scenario], effort: Effort, cores: Cores) -> None:
        self.scenarios, self.effort, self.cores = scenarios, effort, cores
        self.skipped: dict[str, str] = {}
        """Titles of the servers that cannot be installed, with the reason."""
        self.progress = Progress(
            sum(len(self._subjects(each)) * self._rounds(each) for each in scenarios)
        )
        self._repeats_s = effort.repeats_s

    @property
    def servers(self) -> list[Server]:
        """All servers in the scenarios."""
        subjects = chain.from_iterable(map(self._subjects, self.scenarios))
        return list(dict.fromkeys(subject.server for subject in subjects))

    def _subjects(self, scenario: Scenario) -> tuple[Subject, ...]:
        return scenario.subjects + (scenario.only_full if self.effort.every_server else ())

    def _rounds(self, scenario: Scenario) -> int:
        return scenario.rounds[self.effort.every_server]

    def prepare(self) -> None:
        """Install the servers, and report those that cannot be installed.

        Raises:
            Failed: the service does not start.
            Unavailable: the service cannot be installed.
        """
        self.progress.say("preparing the servers; missing ones are installed")
        with running(THIS, self.cores.server):
            pass
        for server in self.servers:
            try:
                server.prepare()
            except Unavailable as failure:
                self.skipped[server.title] = str(failure)
                self.progress.say(f"{server.title} is skipped: {failure}")

    def run(self, scenario: Scenario) -> Outcome:
        """Measure all subjects of a scenario."""
        subjects = self._subjects(scenario)
        samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
        missing = {
            subject.name: self.skipped[subject.server.title]
            for subject in subjects
            if subject.server.title in self.skipped
        }
        try:
            with stage(scenario, self.cores) as server:
                for subject in self._turns(scenario):
                    self._turn(scenario, subject, server, samples[subject.name], missing)
        except (Failed, Unavailable) as failure:
            missing = dict.fromkeys(samples, f"no Redis server: {failure}")
            self.progress.say(f"{scenario.title} is skipped: no Redis server: {failure}")
        rows = (
            Row(each.name, each.title, tuple(samples[each.name]), missing.get(each.name, ""))
            for each in subjects
        )
        return Outcome(
            scenario.title,
            scenario.description,
            scenario.metrics,
            tuple(rows),
            tuple(each for each in scenario.targets if each.beside in {None, *samples}),
            scenario.plotted,
        )

    def _turns(self, scenario: Scenario) -> Iterator[Subject]:
        subjects = self._subjects(scenario)
        for number in range(self._rounds(scenario)):
            yield from subjects if number % 2 == 0 else reversed(subjects)

    def _turn(
        self,
        scenario: Scenario,
        subject: Subject,
        server: Callable[[Subject], Running],
        samples: list[Sample],
        missing: dict[str, str],
    ) -> None:
        what = f"{scenario.title}: {subject.title}"
        self.progress.begin(what)
        if subject.name not in missing:
            try:
                trial = Trial(server(subject), subject, self.effort, self.cores.generator)
                samples.append(self._undisturbed(lambda: scenario.measure(trial)))
            except (Failed, Unavailable) as failure:
                missing[subject.name] = f"failed: {failure}"
        result = missing.get(subject.name)
        if result is None:
            metric = scenario.metrics[0]
            value = metric.text(samples[-1].values.get(metric))
            result = f"{value} {metric.unit} {samples[-1].remark}".rstrip()
        self.progress.end(f"{what}: {result}")

    def _undisturbed(self, measure: Callable[[], Sample]) -> Sample:
        """Measure, and repeat it if other processes used too much of the servers' core."""
        best = measure()
        for _ in range(MAX_REPEATS):
            if (best.foreign or 0) <= MAX_FOREIGN or self._repeats_s <= 0:
                break
            begin = time.monotonic()
            best = min(best, measure(), key=lambda sample: sample.foreign or 0)
            self._repeats_s -= time.monotonic() - begin
        return best
