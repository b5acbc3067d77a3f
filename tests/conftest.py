"""Tiny random models of every family, saved as a user would save them; one thread and one cache for all tests."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is slower
hypothesis.settings.load_profile("any machine")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; inherited by processes that tests start


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """What is kept in the user's cache folder, here and by processes that tests start; the corpus is built once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def apart():
    """`apart(function, *given)`: what a module's function returns in a process that only this test file uses.

    Sizes are measured there, since a process in which thousands of tests ran has holes and late garbage.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *given: pool.submit(function, *given).result()


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory):
    """`make_folder(family, kind, **save)`: kind 'classification', 'causal-lm' or 'bare'; made once each."""
    import torch
    from tiny_models import COMMON, FIELDS, LABELS
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    made: dict[tuple[object, ...], Path] = {}

    def make(family: str, kind: str, fields: dict[str, object] | None = None, **save: object) -> Path:
        key = (family, kind, str(fields), str(save))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{kind}")
            more = {"num_labels": LABELS} if kind == "classification" else {}
            config = AutoConfig.for_model(family, **(COMMON | FIELDS[family] | more | (fields or {})))
            auto = {
                "classification": AutoModelForSequenceClassification,
                "causal-lm": AutoModelForCausalLM,
                "bare": AutoModel,
            }[kind]
            with torch.random.fork_rng():
                torch.manual_seed(sum(map(ord, family)))
                model = auto.from_config(config)
                for name, parameter in model.named_parameters():
                    if name.endswith("bias"):  # zero by default, which would hide a bias that is not loaded
                        torch.nn.init.normal_(parameter, std=0.1)
            model.save_pretrained(folder, **save)
            made[key] = folder
        return made[key]

    return make
