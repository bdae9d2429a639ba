"""Gated layers found by their structure, and prints that tell one base model from another."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers as tf

from conftest import byte_tokenizer, tiny_model
from prag.model import (
    check_logits,
    find_gated_layers,
    fingerprint,
    load_model,
    logits_of,
    wrap,
)
from prag.records import PragError

pytestmark = pytest.mark.fast

LAYERS, HIDDEN, WIDE, VOCABULARY = 2, 32, 48, 258
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GATED = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM),
    "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM),
    "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
    "gemma": (tf.GemmaConfig, tf.GemmaForCausalLM),
    "gemma2": (tf.Gemma2Config, tf.Gemma2ForCausalLM),
    "gemma3": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM),
}
PHI3 = (tf.Phi3Config, tf.Phi3ForCausalLM)


def made(kind, seed=0, **more):
    """A random model of float32, weights large enough for its logits to differ."""
    config_class, model_class = kind
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**{**SIZES, **more})).eval()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("family", GATED)
def test_gate_up_and_down_of_every_layer_are_found(family):
    base = wrap(family, made(GATED[family]), byte_tokenizer())
    expected = {
        f"model.layers.{i}.mlp.{name}": shape
        for i in range(LAYERS)
        for name, shape in {
            "gate_proj": (HIDDEN, WIDE),
            "up_proj": (HIDDEN, WIDE),
            "down_proj": (WIDE, HIDDEN),
        }.items()
    }
    assert {s.name: (s.inputs, s.outputs) for s in base.sites} == expected
    assert all(base.modules[n] is base.model.get_submodule(n) for n in expected)
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    check_logits(base)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_gate_and_up_in_one_are_found(kv_heads):
    """Phi-3; its attention has query, key and value in one map too."""
    found = find_gated_layers(made(PHI3, num_key_value_heads=kv_heads))
    assert {n: (m.in_features, m.out_features) for n, m in found.items()} == {
        f"model.layers.{i}.mlp.{name}": shape
        for i in range(LAYERS)
        for name, shape in {"gate_up_proj": (HIDDEN, 2 * WIDE), "down_proj": (WIDE, HIDDEN)}.items()
    }


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("wide", [HIDDEN, 48, 64])
@pytest.mark.parametrize("family", [*GATED, "phi3"])
def test_attention_is_never_found(family, wide, kv_heads):
    # Phi-3 with half as many key heads as heads: query, key and value in one map are 2 H wide.
    kind = GATED.get(family, PHI3)
    model = made(kind, intermediate_size=wide, num_key_value_heads=kv_heads)
    assert not [name for name in find_gated_layers(model) if "attn" in name]


UNGATED = {
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    ),
    "phi": lambda: made((tf.PhiConfig, tf.PhiForCausalLM)),
    "gpt-neox": lambda: made((tf.GPTNeoXConfig, tf.GPTNeoXForCausalLM)),
}


@pytest.mark.parametrize("family", UNGATED)
def test_a_model_without_gated_layers_is_refused(family):
    model = UNGATED[family]()
    assert find_gated_layers(model) == {}
    with pytest.raises(PragError, match=f"'{family}' has no gated feed-forward layers"):
        wrap(family, model, byte_tokenizer())


def test_a_pad_token_is_given_to_a_tokenizer_without_one():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    assert wrap("x", made(GATED["llama"]), tokenizer).tokenizer.pad_token_id == 1


def test_the_same_weights_have_the_same_print():
    assert tiny_model("llama").fingerprint == tiny_model("llama").fingerprint
    assert len(tiny_model("llama").fingerprint) == 16


def test_the_print_does_not_depend_on_the_precision_of_loading(tmp_path):
    made(GATED["qwen2"]).bfloat16().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    bases = [load_model(str(tmp_path), dtype) for dtype in dtypes]
    assert [b.dtype for b in bases] == list(dtypes)
    assert len({b.fingerprint for b in bases}) == 1


def test_the_print_tells_models_apart():
    model, tokenizer = made(GATED["llama"]), byte_tokenizer()
    prints = [fingerprint(model, tokenizer), fingerprint(made(GATED["llama"], seed=1), tokenizer)]

    trained = copy.deepcopy(model).requires_grad_(True)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    ids = torch.arange(20)[None]
    trained(ids, labels=ids).loss.backward()
    optimizer.step()
    prints.append(fingerprint(trained, tokenizer))

    one_layer = copy.deepcopy(model)
    with torch.no_grad():
        one_layer.model.layers[1].mlp.up_proj.weight *= 1.01
    prints.append(fingerprint(one_layer, tokenizer))

    last_number = copy.deepcopy(model)  # of a weight of fewer numbers than are read
    with torch.no_grad():
        last_number.model.layers[1].mlp.up_proj.weight[-1, -1] += 1.0
    prints.append(fingerprint(last_number, tokenizer))

    template = byte_tokenizer()
    template.chat_template += " "
    prints.append(fingerprint(model, template))

    vocabulary = byte_tokenizer()
    vocabulary.add_tokens(["new"])
    prints.append(fingerprint(model, vocabulary))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_logits_are_the_models_own(family):
    """Gemma 2 caps them: without the cap they differ."""
    more = {"final_logit_softcapping": 2.0} if family == "gemma2" else {}
    base = wrap(family, made(GATED[family], **more), byte_tokenizer())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = base.model(ids).logits[0]
        hidden = base.model.get_decoder()(ids).last_hidden_state[0]
        torch.testing.assert_close(logits_of(base, hidden), whole)
        if family == "gemma2":
            plain = base.model.get_output_embeddings()(hidden)
            assert (plain - whole).abs().max() > 0.1
    check_logits(base)


def test_logits_scaled_in_another_way_are_refused():
    kind = (tf.CohereConfig, tf.CohereForCausalLM)  # multiplies its logits by logit_scale
    base = wrap("cohere", made(kind, logit_scale=0.25), byte_tokenizer())
    with pytest.raises(PragError, match="'cohere' changes its logits"):
        check_logits(base)


def test_a_loaded_model_is_the_saved_one(tmp_path):
    model = made(GATED["llama"])
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    base = load_model(str(tmp_path))
    assert base.fingerprint == fingerprint(model, byte_tokenizer())
    assert base.name == str(tmp_path)
    assert (base.dtype, base.device.type, base.context) == (torch.float32, "cpu", 128)
    assert base.parameters == sum(p.numel() for p in model.parameters())


def garbage_folder(folder, kind):
    """Folders that hold no model, each broken in another place."""
    if kind == "empty":
        return
    (folder / "config.json").write_text("{" if kind == "config" else json.dumps({"a": 1}))
    if kind in ("weights", "no-weights", "no-tokenizer"):
        made(GATED["llama"]).save_pretrained(folder)
        if kind != "no-tokenizer":
            byte_tokenizer().save_pretrained(folder)
    if kind == "weights":
        (folder / "model.safetensors").write_bytes(b"garbage" * 10)
    if kind == "no-weights":
        (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "config",
        "no-kind",
        "no-tokenizer",
        "no-weights",
        "weights",
    ],
)
def test_what_is_no_model_is_refused(tmp_path, kind):
    if kind != "missing":
        garbage_folder(tmp_path, kind)
    name = str(tmp_path / "missing") if kind == "missing" else str(tmp_path)
    with pytest.raises(PragError, match="cannot load the model") as error:
        load_model(name)
    assert name in str(error.value)
    assert "Give the id of a causal language model" in str(error.value)


def test_an_id_that_is_not_in_the_cache_is_refused():
    """Offline, a model that was never loaded is missing; nothing is fetched."""
    with pytest.raises(PragError, match="cannot load the model 'nobody/nothing'"):
        load_model("nobody/nothing")
