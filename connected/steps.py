"""Steps: one goes on when another failed, and one that passed isn't run again by the same command."""

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from connected.settings import Settings
from vaelens.download.failures import AccessError
from vaelens.errors import CheckFailedError, ResourceError, VaelensError
from vaelens.files import json_text
from vaelens.resources import is_out_of_memory
from vaelens.runs.records import JsonLines
from vaelens.runtime import Notify, Progress

PASSED, FAILED, NO_ACCESS = "passed", "failed", "no access"


@dataclass(frozen=True)
class Download:
    """One file that isn't on this machine yet; `size` in bytes, None where nobody has said it."""

    name: str
    size: int | None


@dataclass(frozen=True)
class Finding:
    """What a step found: `details` for the report, JSON, and in `problems` each check that failed, a sentence each."""

    details: Mapping[str, Any]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A step that has ended. `code` is an exit code of vaelens, `problems` say what is wrong, 0 and none if it passed.

    key: what the outcome depends on, hashed. traceback: of an unexpected error.
    """

    name: str
    kind: str
    key: str
    status: str
    code: int = 0
    problems: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    traceback: str = ""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Outcome":
        """From a line of the log. Raises TypeError or KeyError for another one."""
        given: dict[str, Any] = {**values}
        given["problems"] = tuple(given["problems"])
        return Outcome(**given)


@dataclass(frozen=True)
class Run:
    """What a step gets: the settings, who hears of it, and the outcomes of the steps before it, by name."""

    settings: Settings
    notify: Notify
    progress: Progress
    outcomes: Mapping[str, Outcome]

    def usable(self, vaes: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those VAEs that their own step didn't fail to load, and a sentence for each of the others.

        Raises CheckFailedError where none is left.
        """
        bad = [vae for vae in vaes if (own := self.outcomes.get(f"vae {vae}")) and "weights" not in own.details]
        good = [vae for vae in vaes if vae not in bad]
        if not good:
            raise CheckFailedError(f"none of {', '.join(vaes)} could be loaded. See their own steps.")
        return good, [f"{vae} is left out, because it couldn't be loaded: see its own step." for vae in bad]


@dataclass(frozen=True)
class Step:
    """One step. `kind` groups steps in options and report; `about` says in few words what it does.

    inputs: what the outcome depends on, beside program, versions and machine
    downloads: what isn't here yet, by a name under which several steps may need it; may ask the hub, and raises what
    that raises
    operations: floating-point operations by kind of device, for an estimate of its time
    """

    kind: str
    name: str
    about: str
    inputs: Mapping[str, Any]
    downloads: Mapping[str, Callable[[], Sequence[Download]]]
    operations: Mapping[str, float]
    run: Callable[[Run], Finding]

    def key(self, surroundings: Mapping[str, Any]) -> str:
        """What its outcome depends on, hashed."""
        text = json.dumps([surroundings, self.name, self.inputs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def passed_before(
    steps: Sequence[Step], log: JsonLines, surroundings: Mapping[str, Any], notify: Notify
) -> dict[str, Outcome]:
    """The outcomes in the log that hold for these steps and passed, by name.

    Lines that are damaged, or of another version, are removed with a notice. Raises what reading the log raises.
    """
    if removed := log.keep(lambda line: bool(Outcome.from_dict(line))):
        lines = "1 line is" if removed == 1 else f"{removed} lines are"
        notify(f"Warning: {log.path}: {lines} damaged or of another version, and removed. Those steps run again.")
    keys = {step.name: step.key(surroundings) for step in steps}
    found = (Outcome.from_dict(line) for line in log.read())
    return {one.name: one for one in found if one.status == PASSED and one.key == keys.get(one.name)}


def run_steps(
    steps: Sequence[Step],
    run: Run,
    log: JsonLines,
    outcomes: dict[str, Outcome],
    surroundings: Mapping[str, Any],
) -> Iterator[Outcome]:
    """Run those that `outcomes` lacks, in order; each outcome is added there and to the log, then given.

    An interrupt ends it, and isn't an outcome.
    """
    for number, step in enumerate(steps, 1):
        if step.name in outcomes:
            continue
        run.notify("")
        run.notify(f"[{number} of {len(steps)}] {step.name}: {step.about}")
        outcome = _run_step(step, run, step.key(surroundings))
        outcomes[step.name] = outcome
        log.append([json.loads(json_text(asdict(outcome)))])
        run.notify(f"{step.name}: {outcome.status} in {outcome.seconds:.0f} s")
        for problem in outcome.problems:
            run.notify(f"  {problem}")
        yield outcome


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if all passed; the code of those that failed where it is one; 7 where they differ."""
    codes = {outcome.code for outcome in outcomes if outcome.status != PASSED}
    return 0 if not codes else codes.pop() if len(codes) == 1 else CheckFailedError.exit_code


def _run_step(step: Step, run: Run, key: str) -> Outcome:
    start = time.perf_counter()
    try:
        found = step.run(run)
    except Exception as error:  # noqa: BLE001  (whatever it is, the other steps run)
        seconds = time.perf_counter() - start
        status = NO_ACCESS if isinstance(error, AccessError) else FAILED
        code, sentence = _explained(error)
        trace = traceback.format_exc() if code == 1 else ""
        return Outcome(step.name, step.kind, key, status, code, (sentence,), seconds=round(seconds, 3), traceback=trace)
    seconds = round(time.perf_counter() - start, 3)
    status, code = (FAILED, CheckFailedError.exit_code) if found.problems else (PASSED, 0)
    return Outcome(step.name, step.kind, key, status, code, found.problems, found.details, seconds)


def _explained(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence of an error; 1 for one that nobody expects."""
    if isinstance(error, VaelensError):
        return error.exit_code, str(error)
    if is_out_of_memory(error):
        return ResourceError.exit_code, "out of memory. Free some, or use a larger machine."
    return 1, f"an unexpected error, {type(error).__name__}: {error}"
