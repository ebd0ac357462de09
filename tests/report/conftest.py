"""Two small runs, on a store whose names would break a page that does not escape them."""

import pytest
import torch
from report_page import QUOTE, SCRIPT, SECRET

import tiny_store
from lxmert_dist.config import FinetuneConfig, load_config
from lxmert_dist.train.run import run
from lxmert_dist.train.world import World, join
from runs import ROOT, SMALL, pretrain


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("evil") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_store, "OBJECT_CLASSES", [f"{SCRIPT}{i}" for i in range(12)])
        patch.setattr(tiny_store, "ATTRIBUTE_CLASSES", [f"{QUOTE}{i}" for i in range(7)])
        patch.setattr(tiny_store, "ANSWERS", [QUOTE, SCRIPT, "two", "yes"])
        patch.setattr(tiny_store, "SOURCES", ("<b>captions", "questions"))
        tiny_store.make_tiny_store(uri, min_objects=2)
    return uri


@pytest.fixture(scope="session")
def pretrained(store, tmp_path_factory):
    """Directory of a pretraining run."""
    directory = tmp_path_factory.mktemp("runs") / "pretrain"
    names = f"name={SCRIPT} password={SECRET}", "tracking.uri=http://me:pass-word@host"
    pretrain(directory, store, *names)
    return directory


@pytest.fixture(scope="session")
def tuned(store, pretrained):
    """Directory of a run on questions that starts from the other."""
    directory = pretrained.parent / "tuned"
    settings = [*SMALL, f"directory={directory}", f"data.store={store}", f"init={pretrained}"]
    settings += ["data.sources=[]", "model.layer_norm_eps=1e-12", "train.max_steps=4"]
    file = ROOT / "configs" / "finetune" / "easy_vqa.toml"
    torch.set_num_threads(1)
    join(World(), timeout_seconds=60)
    run(load_config(FinetuneConfig, file, settings), World(), "process")
    return directory
