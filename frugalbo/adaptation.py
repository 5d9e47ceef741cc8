"""Weights that know one's own earlier studies, for `method="metabo"`.

What a study says is a Gaussian process fitted to its results; `frugalbo.metabo.past` says how a new study uses it: what
is known conditions what is proposed. The network's own weights can be trained further, too
(`frugalbo.metabo.finetune`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from frugalbo.errors import StudyError
from frugalbo.propose.evidence import Evidence
from frugalbo.store import Store
from frugalbo.stored import read_study
from frugalbo.study import Study

if TYPE_CHECKING:
    from frugalbo.metabo.finetune import FineTuning, Results, Verdict
    from frugalbo.metabo.past import PastStudies

LEAST = 5  # results of a study that says anything


def adapt(
    storage: str | Path,
    out: str | Path,
    *,
    runs: Sequence[str] = (),
    without: Sequence[str] = (),
    weights: str = "",
    fine_tuning: FineTuning | None = None,
    observe: Callable[[Verdict], None] = lambda _: None,
) -> tuple[list[str], dict[str, str]]:
    """Write weights that know the runs of a storage, and what those of `weights` know.

    Args:
        storage: As for `frugalbo.tune`.
        out: Where the weights go.
        runs: Only these; by default all.
        without: Studies that are left out, or withdrawn from those of `weights`.
        weights: A file to begin with; by default what comes with the package.
        fine_tuning: How to train the network further on those runs of the storage that are taken, if at all. It
            begins with the weights before any earlier fine-tuning, and goes on from the checkpoint beside `out`.
        observe: Told what came of that.

    A network that was fine-tuned on a study that is withdrawn is given up for the one before.

    Returns:
        The studies that the weights know now, and for each run that was not taken, why.

    Raises:
        StudyError: If a run or a study that is named does not exist, or nothing is left.
        WeightsError: If `weights` are none, or there is nothing to fine-tune on.
    """
    from frugalbo.metabo.weights import known, save

    held = known(weights)
    with Store(storage) as store:
        stored = [record.id for record in store.runs()]
        names = {name for studies in held.past for name in studies.names}
        if missing := sorted({*runs} - {*stored} | {*without} - {*stored} - names):
            raise StudyError(f"expected runs of {str(storage)!r} or studies of the weights, got {missing[0]!r}")
        taken, left_out, results = [], {}, []
        for run in [r for r in stored if r not in without and (not runs or r in runs)]:
            study = read_study(store, run)
            found = past_study(study, run)
            if found is None:
                left_out[run] = f"it has less than {LEAST} results that differ, or no parameter that varies"
            else:
                taken.append(found)
                results.append(results_of(study, run))
    replaced = [*without, *(name for studies in taken for name in studies.names)]
    kept = [fewer for studies in held.past if (fewer := studies.without(replaced)) is not None]
    if not kept and not taken:
        raise StudyError(f"no run of {str(storage)!r} has {LEAST} results that differ, there is nothing to know")
    network, base, made = held.network, held.base, dict(held.made)
    if base is not None and (fine_tuning is not None or {*without} & {*made["fine_tuning"]["names"]}):
        network, base = base, None
        del made["fine_tuning"]
    if fine_tuning is not None:
        from frugalbo.metabo import checkpoint
        from frugalbo.metabo.finetune import fine_tune

        tuned, verdict = fine_tune(network, results, fine_tuning, checkpoint.beside(Path(out)))
        observe(verdict)
        if verdict.kept:
            names = sorted(one.name for one in results)
            made["fine_tuning"] = {"names": names, "settings": asdict(fine_tuning), **verdict.to_json()}
            network, base = tuned, network
    save(out, network, made, [*kept, *taken], base)
    return [name for studies in (*kept, *taken) for name in studies.names], left_out


def past_study(study: Study, name: str) -> PastStudies | None:
    """What a study says; None if that is nothing."""
    from frugalbo.metabo.past import PastStudies
    from frugalbo.models.objective import fit_objective

    evidence, space = Evidence(study), study.problem.space
    if len(evidence.losses) < LEAST or space.dim == 0 or evidence.losses.max() == evidence.losses.min():
        return None
    fitted = fit_objective(evidence.X, evidence.losses, space.categorical_dims, evidence.points.searched)
    return PastStudies.of_model(name, space, fitted)


def results_of(study: Study, name: str) -> Results:
    """A study as what the network is trained on."""
    from frugalbo.metabo.finetune import Results

    evidence = Evidence(study)
    return Results(name, evidence.X, evidence.losses, tuple(study.problem.space.categorical_dims))
