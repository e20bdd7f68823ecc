"""The winner of a study, exported, trained again on all data, and asked about new data, by the commands."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml
from sklearn.datasets import load_breast_cancer

from tests.support.command import look, run_hpo


def test_a_study_of_a_table_ends_in_predictions_for_a_file(tmp_path: Path) -> None:
    table = load_breast_cancer(as_frame=True)
    frame = table.frame.assign(target=table.target.map({0: "malignant", 1: "benign"}))
    frame.to_csv(tmp_path / "cells.csv", index=False)
    spec = {
        "study": "cells",
        "objective": "objectives.classifier",
        "direction": "maximize",
        "budget": {"trials": 2},
        "space": {"lr": {"type": "float", "low": 0.003, "high": 0.03, "log": True}},
        "fixed": {"dataset": "table", "file": "cells.csv", "target_column": "target", "epochs": 5},
    }
    (tmp_path / "cells.yaml").write_text(yaml.safe_dump(spec))
    run_hpo("run", "cells.yaml", "--runners", "1", "--quiet", "--no-report", cwd=tmp_path).check()
    frame.drop(columns="target").to_csv(tmp_path / "new.csv", index=False)
    look("refit", "cells", "-o", "again.pt2", cwd=tmp_path).check()
    for model in ("again.pt2", "cells"):
        look("predict", model, "new.csv", "-o", "out.csv", cwd=tmp_path).check()
        found = pd.read_csv(tmp_path / "out.csv")
        assert (found.predicted == frame.target).mean() > 0.9
        assert list(found) == ["predicted", "p_benign", "p_malignant"]
    assert "ends in .pt2 or .onnx" in look("best", "cells", "--export", "best.h5", cwd=tmp_path).check(2).err
