"""One study as a worker serves it: what Optuna is asked, from one history for all its runners."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.asked import sampling_code
from hpo.runner.messages import Beginning, Served, values_reported
from hpo.search.diverged import for_sampler, is_diverged
from hpo.search.draws import from_unit, in_sample, training_seed, unit
from hpo.search.prior import prior_trials
from hpo.search.samplers import TicketSampler, make_sampler, needs_stored_trial, suggest
from hpo.search.space import completed, distribution
from hpo.search.view import StudyView, changed, digest, known_as, through
from hpo.spec import StudySpec, resolve, sampling
from hpo.worker.pruning import Pruning
from storage.database.engine import Database, Transaction
from storage.database.records import Claim, StudyRow
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.history.known import KnownTrials, read_whole
from storage.queue import optuna_rows, rungs, studies
from storage.queue.optuna_rows import Owner, Trial

if TYPE_CHECKING:
    from hpo.worker.advice import Advice
    from hpo.worker.desk import Held

_LOOKED_AT = 32  # settings
Note = Callable[[Owner, str, str], None]  # writes an attribute: whose, key, JSON


class ServedStudy:
    """Row, spec, history, sampler and pruner of one study."""

    def __init__(
        self, database: Database, row: StudyRow, spec: StudySpec, code: str = ".", worker_id: str = ""
    ) -> None:
        self.row = row
        self.spec = spec
        self.known = KnownTrials(row.optuna_study_id)
        self.has_looked = False
        self.none_waits = 0  # up to this trial's id plain Optuna has left none waiting (`tickets.claim`)
        self._marks: dict[int, tuple[FrozenTrial, int]] = {}
        self._rungs_seen = 0  # what `rungs.newer` returned last
        self._at_rungs: dict[int, dict[int, float]] = {}  # what trials had there, by epoch
        self.database = database
        self._directions = len(row.spec["directions"])
        self.pruning = Pruning(row, spec, self.known, self._learn_rungs, lambda: self._template)
        self._code = code
        self._worker_id = worker_id

    @cached_property
    def _advice(self) -> Advice:
        """The study's own sampler and pruner."""
        from hpo.worker.advice import Advice

        return Advice(self.spec, self.row.optuna_study_id, self._code, self.known.since, self._worker_id)

    def close(self) -> None:
        """End what it has started."""
        if "_advice" in vars(self):
            self._advice.close()

    def _sampler(self, ticket: int) -> BaseSampler:
        if isinstance(self.spec.sampler, sampling.CustomSampler):
            return self._advice.sampler(ticket)
        return make_sampler(self.spec, ticket)

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Of the declared parameters."""
        return {name: distribution(parameter) for name, parameter in self.spec.space.items()}

    @cached_property
    def store(self) -> ArtifactStore:
        """Where the study's files are."""
        return ArtifactStore(self.row.artifacts)

    @cached_property
    def _prior(self) -> tuple[FrozenTrial, ...]:
        return prior_trials(self.spec, self.database.read(studies.prior, self.row.id))

    def as_served(self) -> Served:
        """What its runners are told of it."""
        return Served(
            study=self.row.name,
            objective=self.spec.objective,
            objective_path=self.spec.objective_path,
            command=self.spec.command or (),
            fixed=dict(self.spec.fixed),
            space=tuple(self.spec.space),
            directions=tuple(self.row.spec["directions"]),
            threads=self.spec.threads,
            keep_last=self.spec.keep.last,
            artifacts=self.row.artifacts,
            folder=checkpoints.study_key(self.row.uid, self.row.first_name),
            prunes=not isinstance(self.spec.pruner, sampling.NoPruner),
            log=self.spec.limits.log,
            attribute=self.spec.limits.attribute,
            sampling=self._sampling,
            keeps_pruned=self.spec.keep.pruned > 0,
            lanes=self.spec.most_lanes,
            ranks=1 if self.spec.command else self.spec.gpus_per_trial,
            timed=self.spec.trial_timeout is not None or self.spec.report_timeout is not None,
            points=self._points() if self.spec.lanes == "auto" else (),
        )

    def _points(self) -> list[dict[str, Any]]:
        """Settings drawn at random, by which a runner sees whether lanes pay."""
        drawn = (
            completed(self.spec, {}, lambda name, held: from_unit(held, unit(0, number, name)))  # noqa: B023 -- now
            for number in range(_LOOKED_AT)
        )
        return [resolve(self.spec, point) for point in drawn]

    @cached_property
    def _sampling(self) -> dict[str, str]:
        """What its adviser is made of, as it was before that began."""
        return sampling_code(self.spec, Path(self._code))

    def seed_of(self, claim: Claim) -> int:
        """What a claim's training starts from."""
        return training_seed(self.row.seed, claim.number if claim.copies is None else claim.copies)

    def origin_of(self, claim: Claim) -> str | None:
        """Where the trial that this one is a copy of left its checkpoint."""
        if claim.copies is None or claim.retry_of is None:
            return None
        return checkpoints.trial_key(self.row.uid, self.row.first_name, claim.retry_of)

    def keeps_checkpoint(self, ticket: int) -> bool:
        """Whether a ticket's trial keeps it when it is pruned; decided by the number alone."""
        return in_sample(self.row.seed, ticket) < self.spec.keep.pruned

    def repeats_trial(self, claim: Claim) -> int | None:
        """The number of the trial whose setting is trained again; None: a claim is a trial's own."""
        return None

    # What to try

    @property
    def is_drawn(self) -> bool:
        """Whether a point needs nothing but its ticket, so that it is chosen at once."""
        return self.spec.sampler.name in ("grid", "random")

    @property
    def learns(self) -> bool:
        """Whether the sampler looks at other trials."""
        return not self.is_drawn and self.spec.sampler.name != "qmc"

    @property
    def needs_stored_trial(self) -> bool:
        """Whether the sampler writes to the trial while it samples."""
        return needs_stored_trial(self.spec)

    def drawn(self, claim: Claim) -> dict[str, Any]:
        """The point of a study whose points are drawn."""
        return suggest(self.spec, None, create_trial(state=TrialState.RUNNING), claim.number, claim.point)  # type: ignore[arg-type]

    def suggested(
        self, claim: Claim, trial: FrozenTrial | None, note: Note
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The point, and what the sampler knew when it chose (counts and newest trials, by number).

        `trial`: the one that asks, if it is in the database already; its parameters stay.
        """
        if self.learns:
            self.refresh()
        seen = self.trials() if self.learns else []  # once: another thread may learn more while it chooses
        study, prior = self._study(note, seen), self._prior if self.learns else ()
        fixed = {**claim.point, **({} if trial is None else trial.params)}
        sampler = self._sampler(claim.number) if self.learns else None
        asking = trial or create_trial(state=TrialState.RUNNING)
        params = suggest(self.spec, study, asking, claim.number, fixed, prior, sampler)
        rated = getattr(sampler, "rated", {})
        return params, {**self._saw(seen), **({"rated": rated} if rated else {})} if self.learns else {}

    def _saw(self, seen: Sequence[FrozenTrial]) -> dict[str, Any]:
        done = [trial for trial in seen if trial.state.is_finished()]
        running = [trial.number for trial in seen if not trial.state.is_finished()]
        newest = max((trial.number for trial in done), default=None)
        saw: dict[str, Any] = {"finished": len(done), "newest": newest, "running": running}
        saw["digest"] = digest(map(self._mark, done))
        if diverged := sum(is_diverged(trial) for trial in seen):
            saw["diverged"] = diverged
        return saw | ({"prior": len(self._prior)} if self._prior else {})

    def _mark(self, trial: FrozenTrial) -> int:
        """`known_as`, once for each."""
        held = self._marks.get(trial._trial_id)
        if held is None or held[0] is not trial:
            held = self._marks[trial._trial_id] = (trial, known_as(trial))
        return held[1]

    def suggested_one(
        self,
        held: Held,
        name: str,
        distribution_json: str,
        note: Note = lambda _of, _key, _json: None,
    ) -> float:
        """A parameter that the study file does not declare, as the distribution stores it.

        What the sampler chooses together (Optuna: relative parameters) is chosen once an attempt.
        """
        wanted = json_to_distribution(distribution_json)
        if self.learns and not held.relative:
            self.refresh()
        own = self.known.get(held.stored.id)
        sampler = self._sampler(held.claim.number)
        study = for_sampler(self._study(note), self.spec)
        study.sampler = sampler
        if not held.relative:
            space = sampler.infer_relative_search_space(study, own)
            held.relative.append((space, sampler.sample_relative(study, own, space)))
        space, values = held.relative[0]
        if name in values and space[name] == wanted:
            value = values[name]
        else:
            value = sampler.sample_independent(study, own, name, wanted)
        return float(wanted.to_internal_repr(value))

    # Whether to go on

    def advised_to_prune(self, held: Held, note: Note) -> bool:
        """What the study's own pruner says of a trial.

        Raises:
            AdviceError: it failed.
        """
        self.refresh()
        return self._advice.prune(self._study(note), self.known.get(held.stored.id), held.claim.number)

    def reported_in(self, value: float | None, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """The values that a step reports, one a direction; None: it has metrics alone."""
        return values_reported(value, metrics, self._directions)

    # What is known

    def trials(self) -> list[FrozenTrial]:
        """All trials as samplers see them; for one that reads rungs, open ones with what they had there."""
        found = self.known.trials()
        if self._reads_rungs:
            return [self._with_rungs(trial) for trial in found]
        parking = self.pruning.parking
        return found if parking is None else parking.shown(found)

    @property
    def _reads_rungs(self) -> bool:
        return isinstance(self.spec.sampler, sampling.RungsSampler)

    def _with_rungs(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.state.is_finished() or trial.intermediate_values or trial._trial_id not in self._at_rungs:
            return trial
        return changed(trial, intermediate_values=self._at_rungs[trial._trial_id])

    def refresh(self) -> None:
        """Learn which trials others have begun or ended since."""
        self.database.read(self._learn_trials)

    def look(self, connection: Transaction) -> None:
        """Learn what pruners compare, in a transaction that reads it or has written nothing yet."""
        self._learn_trials(connection)
        if self.pruning.keeps_rungs:
            self._learn_rungs(connection)
        self.has_looked = True

    def _learn_rungs(self, connection: Transaction) -> None:
        """Learn who has come to which rung, or has not; another thread may be reading."""
        seen, several = self._rungs_seen, self._directions
        self._rungs_seen, found = rungs.newer(connection, self.row.id, seen, several)
        self.pruning.learn(found)
        for rung in found:
            others = {e: v for e, v in self._at_rungs.get(rung.trial_id, {}).items() if e != rung.epoch}
            had = {} if rung.value is None else {rung.epoch: rung.value}
            self._at_rungs[rung.trial_id] = others | had

    def _learn_trials(self, connection: Transaction) -> None:
        self.known.refresh(connection, params=self.learns and not self.spec.space)
        parking = self.pruning.parking
        if parking is not None and self.learns and not self._reads_rungs:
            parking.look(connection)

    def begin(self, claim: Claim, trial: Trial, params: Mapping[str, Any]) -> Beginning:
        """A new trial, as it was just stored."""
        held = {name: self.distributions[name] for name in params}
        return self._beginning(claim, running(trial.number, params, held, trial.id))

    def read(self, trials: Sequence[Trial]) -> dict[int, FrozenTrial]:
        """Trials of earlier attempts, as they were just taken over, by id."""
        found = self.database.read(read_whole, [trial.id for trial in trials])
        for trial in found:
            self.known.put(trial)
        return {trial._trial_id: trial for trial in found}

    def completed(self, claim: Claim, trial: FrozenTrial, missing: Mapping[str, Any]) -> Beginning:
        """A stored trial with the parameters that it lacked."""
        held = {**trial.distributions, **{name: self.distributions[name] for name in missing}}
        return self._beginning(claim, changed(trial, params={**trial.params, **missing}, distributions=held))

    def newer_than(self, version: int) -> tuple[int, list[FrozenTrial]]:
        """The study's trials that are newer, and the newest version."""
        self.refresh()
        return self.known.since(version)

    def _beginning(self, claim: Claim, trial: FrozenTrial) -> Beginning:
        self.known.put(trial)
        point = {name: value for name, value in claim.point.items() if name not in trial.params}
        return Beginning(trial, resolve(self.spec, trial.params), point)

    def reported(self, trial: Trial, step: int, value: float) -> None:
        """A trial of this worker has a further value."""
        self._add(trial, intermediate_values={step: value})

    def has_parameter(self, trial: Trial, name: str, value: float, held: BaseDistribution) -> None:
        """A trial of this worker has a further parameter."""
        self._add(trial, params={name: held.to_external_repr(value)}, distributions={name: held})

    def has_attribute(self, trial: Trial, of: Owner, key: str, value_json: str) -> None:
        """A trial of this worker has a further attribute."""
        if of in ("system", "user"):
            self._add(trial, **{f"{of}_attrs": {key: json.loads(value_json)}})

    def _add(self, trial: Trial, **more: Mapping[Any, Any]) -> None:
        own = self.known.get(trial.id)
        self.known.put(changed(own, **{name: {**getattr(own, name), **new} for name, new in more.items()}))

    @cached_property
    def _template(self) -> optuna.Study:
        return optuna.Study(self.row.name, _View(self), TicketSampler(0, 0), self.pruning.pruner)

    def _study(self, note: Note, seen: Sequence[FrozenTrial] | None = None) -> optuna.Study:
        """The study with no list of trials from last time, through a view that notes for one attempt.

        `seen`: all that it shows; None: what is known whenever it is asked.
        """
        return through(self._template, _View(self, note, seen))


def running(
    number: int, params: Mapping[str, Any], held: Mapping[str, BaseDistribution], trial_id: int = -1
) -> FrozenTrial:
    """A trial that runs and has nothing but parameters, of these distributions; they are not compared."""
    found = create_trial(state=TrialState.RUNNING)
    found.number, found._trial_id = number, trial_id
    found.params, found.distributions = dict(params), dict(held)
    return found


class _View(StudyView):
    """The study as samplers and pruners see it; what they note is written for the attempt that asks."""

    def __init__(
        self,
        study: ServedStudy,
        note: Note = lambda _of, _key, _json: None,
        seen: Sequence[FrozenTrial] | None = None,
    ) -> None:
        row = study.row
        trials = study.trials if seen is None else lambda: [*seen]
        super().__init__(row.name, row.optuna_study_id, row.spec["directions"], trials, study.known.get)
        self._database = study.database
        self._note = note

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As they are now: NSGA-II keeps the parents of a generation there."""
        return self._database.read(optuna_rows.study_attributes, study_id, "study system")

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Note it with the study."""
        self._note("study system", key, json.dumps(value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note it with the trial that asks."""
        self._note("system", key, json.dumps(value))
