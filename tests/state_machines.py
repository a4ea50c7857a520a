"""Runs Hypothesis state machines, and checks that they find planted bugs."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.internal.conjecture import providers
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from sfr_batch.errors import SfrBatchError

MACHINE = settings(max_examples=80, stateful_step_count=40, suppress_health_check=list(HealthCheck))
_HUNT = settings(
    MACHINE,
    max_examples=60,
    phases=[Phase.generate],
    database=None,
    print_blob=False,
    verbosity=Verbosity.quiet,
    report_multiple_bugs=False,
)


def find_bug(machine: type[RuleBasedStateMachine], symptom: str, start: int = 0) -> None:
    """The machine must fail, and for the planted reason: ``symptom`` is a pattern for what it says.

    Short searches from one seed after the other. ``start`` is a seed that was seen to find this bug at once; from any
    other it is found too, in some minutes. Hypothesis also draws integers that it has read in the source of every
    module imported so far; the search goes without them, or any new number anywhere would change what a seed does.
    What else changes it is a change of the machine itself: another rule, another choice.
    """
    hunted = type(machine.__name__, (machine,), {})  # which keeps the seed; the machine itself stays without one
    with _without_constants_of_the_source(), pytest.raises((AssertionError, SfrBatchError), match=symptom):  # noqa: PT012
        for number in range(start, start + 100):
            seed(number)(hunted)
            run_state_machine_as_test(hunted, settings=_HUNT)


def repeat(machine: type[RuleBasedStateMachine], examples: int) -> None:
    """Run these examples, the same each time."""
    run = type(machine.__name__, (machine,), {})
    with _without_constants_of_the_source():
        seed(0)(run)
        run_state_machine_as_test(run, settings=settings(_HUNT, max_examples=examples))


@contextlib.contextmanager
def _without_constants_of_the_source() -> Iterator[None]:
    """Not public: where a version of Hypothesis has it elsewhere, bugs are found all the same, only later."""
    none = SimpleNamespace(set_for_type=lambda _: ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "_get_local_constants", lambda: none, raising=False)
        patch.setattr(providers, "CONSTANTS_CACHE", {}, raising=False)
        yield
