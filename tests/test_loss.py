"""The loss in parts equals the loss made whole, and so does its gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import FAMILIES, tiny_model
from prag import loss
from prag.batches import make_batch
from prag.loss import batch_loss
from prag.prompts import Example

pytestmark = pytest.mark.fast


def drawn_batch(base, lengths, skip=0):
    generator = torch.Generator().manual_seed(0)
    examples = [
        Example(tuple(torch.randint(5, 60, (n,), generator=generator).tolist()), 1 + n % 3)
        for n in lengths
    ]
    batch = make_batch(examples, base.tokenizer.pad_token_id, base.device, skip)
    hidden = base.model.config.hidden_size
    out = torch.randn(*batch.ids.shape, hidden, generator=generator, dtype=base.dtype)
    return batch, out.requires_grad_()


def whole(base, out, batch):
    """As a textbook has it: all logits of the model's head at once."""
    logits = base.model.get_output_embeddings()(out)
    cap = getattr(base.model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    each = cross_entropy(logits[batch.rows, batch.columns], batch.targets, reduction="none")
    return (each * batch.weights).sum()


@pytest.mark.parametrize("rows", [1, 8, 128])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_rows_at_a_time_give_the_loss_and_the_gradient_of_all_at_once(
    family, rows, monkeypatch
):
    base = tiny_model(family)
    batch, out = drawn_batch(base, (40, 3, 25, 60, 12))
    assert 100 < len(batch.rows) < 140  # neither 8 nor 128 divides it
    assert len(batch.rows) % 8
    monkeypatch.setattr(loss, "ROWS", rows)
    expected = whole(base, out, batch)
    found = batch_loss(base, out, batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    (right,) = torch.autograd.grad(expected, out)
    (given,) = torch.autograd.grad(3 * found, out)
    assert right.abs().max() > 0
    torch.testing.assert_close(given, 3 * right, rtol=1e-10, atol=1e-14)


def test_never_more_logits_at_once_than_it_says(monkeypatch):
    base = tiny_model("llama")
    batch, out = drawn_batch(base, (90, 80))
    seen = []
    real = loss.logits_of
    monkeypatch.setattr(loss, "logits_of", lambda b, h: seen.append(len(h)) or real(b, h))
    batch_loss(base, out, batch)
    assert max(seen) == loss.ROWS
    assert sum(seen) == len(batch.rows)


def test_logits_are_summed_in_float32_where_the_model_computes_in_bfloat16():
    base = tiny_model("llama")
    base.model.to(torch.bfloat16)
    batch, out = drawn_batch(base, (150, 80))
    found = batch_loss(base, out.to(torch.bfloat16), batch)
    assert found.dtype == torch.float32
    (gradient,) = torch.autograd.grad(found, out)
    assert gradient.isfinite().all()
