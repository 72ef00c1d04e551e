"""How many stages share a GPU, and that a launcher is told before anything is launched."""

import pytest

from experiments import main
from experiments.commands import describe
from experiments.forecast import Forecast
from experiments.packing import CONTEXT_BYTES, GROWTH, SHARE, workers_that_fit
from experiments.stage import Estimate
from experiments.store import Store
from hydra_plugins.local_launcher.launcher import LocalLauncher
from ldm.errors import UserError

GIB = 2**30


@pytest.mark.parametrize(
    ("peak", "free", "cores", "expected"),
    [
        (GIB, 140 * GIB, 16, 8),  # the cores end first
        (20 * GIB, 140 * GIB, 16, 4),
        (20 * GIB, 24 * GIB, 16, 1),
        (90 * GIB, 24 * GIB, 16, 1),  # which the training itself will have to see to
        (GIB, 140 * GIB, 1, 1),
        (0, 8 * GIB, 64, 10),
    ],
)
def test_as_many_fit_as_memory_and_cores_let(peak, free, cores, expected):
    found = workers_that_fit(peak, free, cores)
    assert found == expected
    assert found == 1 or found * (CONTEXT_BYTES + GROWTH * peak) <= SHARE * free


def test_a_gpu_is_shared_by_as_many_as_its_networks_let(monkeypatch, capsys):
    monkeypatch.setattr(main, "free_bytes", lambda device: {"cuda": 140 * GIB}[device])
    monkeypatch.setattr(main, "cores", lambda: 16)
    assert main._sharing_the_gpu(Forecast({}, 1.0, 20 * GIB)) == 4
    assert "up to 4 stages at a time share the GPU (hydra.launcher.workers=auto)" in capsys.readouterr().out
    assert main._sharing_the_gpu(None) == main._sharing_the_gpu(Forecast({}, 1.0, None)) == 2


def test_describe_says_how_many_share_the_gpu(monkeypatch):
    monkeypatch.setattr(describe, "free_bytes", lambda device: {"cuda": 140 * GIB}[device])
    monkeypatch.setattr(describe, "cores", lambda: 16)
    estimates = [Estimate(1, 1.0, memory=bytes) for bytes in (GIB, None, 20 * GIB)]
    [note] = describe._sharing("cuda", estimates)
    assert "would have 4 such stages share the GPU" in note
    assert [*describe._sharing("cpu", estimates), *describe._sharing("cuda", estimates[1:2])] == []


@pytest.mark.parametrize(("workers", "told"), [("auto", [2]), (3, []), (None, [])])
def test_on_a_cpu_two_share_the_cores_where_it_is_left_open(monkeypatch, tmp_path, workers, told):
    """A launcher is told before anything is launched, and only where it asked."""
    planned = main.Grid("sweep", [], [], {"device": "cpu", "tracker": {}, "until": "samples"}, Store(tmp_path))
    shared, settled = [], []
    monkeypatch.setattr(main, "_forecast", lambda plans, ahead, store, workers: shared.append(workers))
    for name in ("_track_cells", "_end", "say_work"):
        monkeypatch.setattr(main, name, lambda *rest: None)
    monkeypatch.setattr(main, "run_missing", lambda *rest: settled.append("launched"))
    main._run_planned(planned, lambda jobs: None, workers, settled.append)
    assert settled == [*told, "launched"]
    assert shared == {"auto": [2], 3: [3], None: []}[workers]


def test_their_number_is_settled_anew_where_it_is_another():
    launcher = LocalLauncher("auto", threads=3)
    assert launcher.workers is None
    launcher.settle(4)
    workers = launcher.workers
    launcher.settle(4)
    assert launcher.workers is workers
    launcher.settle(7)
    assert (launcher.workers.count, launcher.workers.threads) == (7, 3)
    with pytest.raises(UserError, match=r"hydra\.launcher\.workers=many: give a whole number from 1 on, or auto"):
        LocalLauncher("many").settle("many")
