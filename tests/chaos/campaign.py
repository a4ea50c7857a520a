"""Writers that are killed again and again, each time followed by the same command, until one is left in peace.

A campaign is one table: a run is killed at a failpoint or from outside, the corpus may change, the next run may be
killed as well; then one undisturbed run must complete the job. Everything that is random comes from one seed.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.chaos.checks import (
    Broken,
    Objects,
    check,
    check_new_splits,
    check_report,
    check_snapshot,
    check_table,
    check_unchanged,
    objects_of,
    open_table_store,
    plan_of,
    splits_in,
)
from tests.chaos.corpus import ROWS_PER_SPLIT, Corpus, State, reference_vectors
from tests.chaos.failpoints import WHEN, Failpoint
from tests.chaos.writer import Ending, Order, Writers
from tests.repositories import write_planned

_SMALL = 110
"""Shards of one row that the corpus of each fourth campaign has beside others: they are packed."""
_OUTSIDE = 0.2
"""Share of the kills that come from outside, at a random moment."""


def model_without_weights(folder: Path) -> Path:
    """A small model with weights that nobody can load. Its tokenizer is real; every writer loads it."""
    write_planned(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@dataclass
class Tally:
    """What has been done so far."""

    kills: Counter[str] = field(default_factory=Counter)
    """By operation and moment."""
    outside: int = 0
    runs: int = 0
    tables: int = 0

    @property
    def moments(self) -> frozenset[str]:
        """Those of WHEN at which a run was killed."""
        return frozenset(kind.split(" ", 1)[0] for kind, kills in self.kills.items() if kills)

    @property
    def total(self) -> int:
        return self.outside + sum(self.kills.values())

    def __str__(self) -> str:
        return (
            f"{self.total} kills, {self.outside} of them from outside, the others at {len(self.kills)} points; "
            f"{self.runs} runs of {self.tables} tables"
        )


class Chaos:
    """Campaigns on one place. ``bug``: what every writer has planted in it."""

    def __init__(self, writers: Writers, folder: Path, place: str, seed: int, bug: str | None = None) -> None:
        self._writers, self._folder, self._place, self._bug = writers, folder, place, bug
        self._seed = seed
        self._model = model_without_weights(folder / "model")
        settings = ModelSettings(path=str(self._model), device="cpu")
        recipe = read_recipe(self._model, settings)
        self._tokenizer, self._dim = Tokenizer.load(recipe), recipe.dim
        self.tally = Tally()
        self.operations: Counter[str] = Counter()
        """Those of undisturbed runs, at most."""
        self._seconds = 1.0

    def run(self, kills: int, only: Callable[[Failpoint], bool] = lambda _: True) -> Tally:
        """Campaigns until there were so many kills. Raises AssertionError that says how to have the failure again."""
        number = 0
        first = self._first_points(only)
        while self.tally.total < kills:
            campaign = Campaign(self, number, next(first), kills - self.tally.total)
            try:
                campaign.run(only)
            except Exception as error:
                history = "\n  ".join(campaign.history)
                raise Broken(
                    f"{error}\nCampaign {number} of --seed {self._seed} on {self._place}:\n  {history}"
                ) from error
            number += 1
        return self.tally

    def scout(self) -> Counter[str]:
        """The operations of an undisturbed run and of one that finds it done; also how long the first takes."""
        if not self.operations:
            campaign = Campaign(self, -1, None, 0)
            ending = campaign.undisturbed()
            check(ending.code == 0 or self._bug is not None, f"the first undisturbed run failed:\n{_tail(ending)}")
            self._seconds = ending.seconds
            self._seconds = min(self._seconds, campaign.again().seconds)
        return self.operations

    def _first_points(self, only: Callable[[Failpoint], bool]) -> Iterator[Failpoint]:
        """Every operation at every moment, in a random order, and then all over again."""
        rng = random.Random(f"{self._seed} first")
        while True:
            points = [point for point in self.points(rng) if only(point)]
            assert points, "nothing to choose from"
            rng.shuffle(points)
            yield from points

    def points(self, rng: random.Random) -> list[Failpoint]:
        return [
            Failpoint(operation, rng.randint(1, -(-number // 2)), when)  # other corpora may need fewer of them
            for operation, number in sorted(self.scout().items())
            for when in (WHEN if operation.startswith("create") else ("before", "after"))
        ]

    def order(self, config: dict[str, Any], **how: Any) -> Ending:
        self.tally.runs += 1
        return self._writers.run(Order(config, bug=self._bug, **how))

    def reference(self, state: State) -> Any:
        return reference_vectors(state.texts, self._tokenizer, self._dim)

    @property
    def random_moment(self) -> float:
        return self._seconds * 1.1


class Campaign:
    """One table and its corpus, from the first run to the last."""

    def __init__(self, chaos: Chaos, number: int, first: Failpoint | None, kills: int) -> None:
        self._chaos, self._first, self._kills = chaos, first, kills
        self._rng = random.Random(f"{chaos._seed} {number}")
        folder = chaos._folder / f"campaign{number}"
        shutil.rmtree(folder, ignore_errors=True)
        self._corpus = Corpus(folder / "corpus", self._rng)
        self._corpus.begin(_SMALL if number > 0 and number % 4 == 3 else 0)
        self._table = f"{chaos._place}/campaign{number}/table"
        self._states: list[State] = [self._corpus.state()]
        self.history: list[str] = []
        chaos.tally.tables += 1

    def _config(self) -> dict[str, Any]:
        """The settings that may differ from run to run differ."""
        return {
            "corpus": {"path": str(self._corpus.folder)},
            "model": {"path": str(self._chaos._model), "device": "cpu"},
            "table": {"path": self._table},
            "run": {
                "rows_per_split": ROWS_PER_SPLIT,
                "min_splits": 1,
                "max_reject_share": 1,
                "ray_address": "none",
                "max_batch_tokens": self._rng.choice([512, 2048]),
                "actors": {"gpus": 0, "min": self._rng.randint(1, 4), "max": 4},
            },
        }

    def run(self, only: Callable[[Failpoint], bool]) -> None:
        seen: Objects = {}
        stop_at = self._chaos.tally.total + self._kills
        for attempt in range(self._rng.randint(3, 9)):
            if self._chaos.tally.total == stop_at:
                break
            if attempt and self._rng.random() < 0.4:
                self._change()
            ending = self._disturbed(attempt, only)
            seen = self._look(seen)
            if not ending.killed:
                check(ending.code == 0, f"a run that nobody killed failed:\n{_tail(ending)}")
                self._change()
        self._last_run(seen)

    def _change(self) -> None:
        self.history.append(self._corpus.change())
        self._states.append(self._corpus.state())

    def _disturbed(self, attempt: int, only: Callable[[Failpoint], bool]) -> Ending:
        chaos, rng = self._chaos, self._rng
        if attempt and rng.random() < _OUTSIDE and only(Failpoint("outside", 1, "before")):
            moment = rng.uniform(0, chaos.random_moment)
            ending, what = chaos.order(self._config(), kill_after_s=moment), f"kill from outside after {moment:.3f} s"
            chaos.tally.outside += ending.killed
        else:
            point = self._first
            if attempt or point is None:
                points = [point for point in chaos.points(rng) if only(point)]
                unseen = [point for point in points if not chaos.tally.kills[point.kind]]
                never = [point for point in points if point.when not in chaos.tally.moments]
                point = rng.choice(never or (unseen if unseen and rng.random() < 0.5 else points))
                point = Failpoint(point.operation, rng.randint(1, min(point.nth, 3)), point.when)
            ending, what = chaos.order(self._config(), failpoint=point), str(point)
            chaos.tally.kills[point.kind] += ending.killed
        self.history.append(f"{what}: {'killed' if ending.killed else f'exit code {ending.code}'}")
        return ending

    def _look(self, seen: Objects) -> Objects:
        """After a kill: what was there is there as it was."""
        now = objects_of(open_table_store(config_from_dict(self._config())))
        check_unchanged(seen, now)
        return now

    def _last_run(self, before: Objects) -> None:
        plan = plan_of(config_from_dict(self._config()))
        ending = self.undisturbed()
        check(ending.code == 0, f"the undisturbed run failed:\n{_tail(ending)}")
        after = objects_of(plan.store)
        check_unchanged(before, after)
        check_new_splits(plan, before, after)
        state = self._states[-1]
        config = config_from_dict(self._config())
        table = check_table(config, state.rows, self._chaos.reference(state))
        if not plan.up_to_date:
            check_report(table, splits_in(after) - splits_in(before))
        for snapshot in table.snapshots()[:-1]:
            covered = {record.uri: record.version for record in snapshot.read_shards()}
            states = [state for state in self._states if state.versions == covered]
            check(bool(states), f"snapshot {snapshot.number} is a mixture of corpora")
            check_snapshot(snapshot, states[0].rows, self._chaos.reference(states[0]))

    def undisturbed(self) -> Ending:
        ending = self._chaos.order(self._config())
        self.history.append(f"undisturbed: exit code {ending.code}")
        for operation, number in ending.operations.items():
            self._chaos.operations[operation] = max(number, self._chaos.operations[operation])
        return ending

    def again(self) -> Ending:
        """A further run after a change, for what it does beside."""
        self._change()
        return self.undisturbed()


def _tail(ending: Ending) -> str:
    return "\n".join(ending.output.splitlines()[-12:])
