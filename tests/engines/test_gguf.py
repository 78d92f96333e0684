"""A GGUF file gives the model that it was made of."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerail.engines import GenerationRequest, Sampling, load_engine
from rerail.engines.transformers import TransformersEngine
from rerail.errors import EngineError, MissingDependencyError
from rerail.types import Prompt
from tests.engines import tiny

pytest.importorskip("accelerate")
tiny_gguf: Any = pytest.importorskip("tests.engines.tiny_gguf")

GREEDY = Sampling(max_new_tokens=8)
TOKENIZER = tiny.byte_level()
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "starcoder2")
PROMPTS = [
    Prompt.of([
        {"role": "system", "content": "You are a helpful assistant. Be kind, please."},
        {"role": "user", "content": question},
    ])
    for question in ("Hello world", "How do I bake a loaf of bread? Tell me, step by step.")
]  # fmt: skip


def make(architecture: str = "llama", **options: Any) -> Any:
    return tiny_gguf.tiny_model(architecture, len(TOKENIZER), **options)


def load(path: Path, **options: Any) -> TransformersEngine:
    engine = load_engine(path, **{"device": "cpu", **options})
    assert isinstance(engine, TransformersEngine)
    return engine


def requests_of(engine: TransformersEngine) -> list[GenerationRequest]:
    prompts = [engine.embed(prompt) for prompt in PROMPTS]
    return [request for prompt in prompts for request in (
        GenerationRequest(prompt, prompt.point), tiny.moved(prompt, 1))]  # fmt: skip


def logits(engine: TransformersEngine, tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = engine._model(torch.from_numpy(tokens)[None]).logits[0]
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_answers_as_the_folder_of_the_same_weights(
    architecture: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make(architecture)
    model.save_pretrained(tmp_path / "folder")
    TOKENIZER.save_pretrained(tmp_path / "folder")
    tiny_gguf.write_gguf(tmp_path / "A model.gguf", model, TOKENIZER)
    capfd.readouterr()
    engine, folder = load(tmp_path / "A model.gguf"), load(tmp_path / "folder")
    assert capfd.readouterr() == ("", "")
    assert engine.name == "A model"
    assert engine._model.dtype == torch.float32
    assert engine.weights_sha256() == folder.weights_sha256()
    assert engine.context_length == folder.context_length
    assert (engine._bridges, engine._prefix_reuse) == (folder._bridges, folder._prefix_reuse)
    assert (engine._prefixes is None) == (folder._prefixes is None)
    ours, theirs = requests_of(engine), requests_of(folder)
    for own, other in zip(ours, theirs, strict=True):
        assert np.array_equal(own.embedded.token_ids, other.embedded.token_ids)
        assert np.array_equal(own.embedded.message_index, other.embedded.message_index)
        assert np.array_equal(own.point, other.point)
        tokens = own.embedded.token_ids
        assert torch.equal(logits(engine, tokens), logits(folder, tokens))
    answers = [answer.token_ids for answer in engine.generate(ours, GREEDY)]
    assert answers == [answer.token_ids for answer in folder.generate(theirs, GREEDY)]


def test_packed_weights_are_unpacked_to_float32(tmp_path: Path) -> None:
    tiny_gguf.write_gguf(tmp_path / "m.gguf", make(), TOKENIZER, kind=tiny_gguf.Q8_0)
    engine, whole = load(tmp_path / "m.gguf"), TransformersEngine(make(), TOKENIZER)
    weights = engine._model.state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    for name, tensor in whole._model.state_dict().items():
        step = tensor.abs().max() / 127
        assert (weights[name] - tensor).abs().max() <= step
    assert engine.weights_sha256() != whole.weights_sha256()
    half = load(tmp_path / "m.gguf", dtype="bfloat16")
    assert half._model.dtype == torch.bfloat16


def test_what_was_read_can_be_saved_as_a_folder(tmp_path: Path) -> None:
    tiny_gguf.write_gguf(tmp_path / "m.gguf", make(), TOKENIZER)
    engine = load(tmp_path / "m.gguf")
    engine._model.save_pretrained(tmp_path / "saved")
    engine.tokenizer.save_pretrained(tmp_path / "saved")
    saved = load(tmp_path / "saved")
    assert saved.weights_sha256() == engine.weights_sha256()
    requests = requests_of(engine)
    assert saved.generate(requests, GREEDY) == engine.generate(requests, GREEDY)


def test_the_end_of_a_turn_ends_an_answer(tmp_path: Path) -> None:
    whole = TransformersEngine(make(), TOKENIZER)
    request = requests_of(whole)[2]
    [answer] = whole.generate([request], GREEDY)
    tiny_gguf.write_gguf(tmp_path / "m.gguf", make(), TOKENIZER, turn_end=answer.token_ids[2])
    [ended] = load(tmp_path / "m.gguf").generate([request], GREEDY)
    assert ended.finish_reason == "stop"
    end = answer.token_ids.index(answer.token_ids[2]) + 1
    assert ended.token_ids == answer.token_ids[:end]


def test_positions_are_scaled_as_llama_3_does(tmp_path: Path) -> None:
    scaled = {
        "rope_type": "llama3",
        "rope_theta": 100.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = make(rope_parameters=scaled)
    tiny_gguf.write_gguf(tmp_path / "m.gguf", model, TOKENIZER)
    engine, whole = load(tmp_path / "m.gguf"), TransformersEngine(model, TOKENIZER)
    tokens = requests_of(whole)[2].embedded.token_ids
    expected = logits(whole, tokens)
    torch.testing.assert_close(logits(engine, tokens), expected, atol=1e-4, rtol=1e-4)
    plain = make(rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    plain.load_state_dict(model.state_dict())
    assert (logits(TransformersEngine(plain, TOKENIZER), tokens) - expected).abs().max() > 0.1


def test_options_follow_the_name(tmp_path: Path) -> None:
    tiny_gguf.write_gguf(tmp_path / "m.gguf", make(), TOKENIZER)
    engine = load_engine(f"{tmp_path / 'm.gguf'}?max_batch=3&name=mine")
    assert isinstance(engine, TransformersEngine)
    assert (engine.name, engine._max_batch) == ("mine", 3)


def test_what_cannot_be_read_is_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(EngineError, match=r"no such file: .*m\.gguf"):
        load_engine(path)
    with pytest.raises(EngineError, match=r"no such file: m\.gguf"):
        load_engine("m.gguf")
    tiny_gguf.write_gguf(path, make(), TOKENIZER, architecture="rwkv7")
    with pytest.raises(EngineError, match=r"does not read.*rwkv7.*with safetensors weights"):
        load_engine(path)
    tiny_gguf.write_gguf(path, make(), TOKENIZER, scaling=tiny_gguf.gguf.RopeScalingType.YARN)
    with pytest.raises(EngineError, match=r"scales positions \(yarn\).*with safetensors weights"):
        load_engine(path)
    tiny_gguf.write_gguf(path, make(), TOKENIZER)
    with pytest.raises(EngineError, match=r"m\.gguf is a file: name a folder"):
        load_engine(f"vllm-server:http://127.0.0.1:1?model={path}")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"does not read.*with safetensors weights"):
        load_engine(path)
    path.write_bytes(b"no such format")
    with pytest.raises(EngineError, match=r"does not read.*with safetensors weights"):
        load_engine(path)
    for package in ("gguf", "accelerate"):
        with monkeypatch.context() as patch:
            others = {"gguf", "accelerate"} - {package}
            patch.setattr("rerail.engines._gguf.find_spec", lambda name, there=others: (
                find_spec(name) if name in there else None))  # fmt: skip
            with pytest.raises(MissingDependencyError, match=rf"{package} .*rerail\[gguf\]"):
                load_engine(path)
