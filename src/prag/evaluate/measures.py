"""What is measured of one answer, and of the passages that were found for a question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

from prag.metrics import exact_match, presence, token_scores, token_scores_published
from prag.records import PragError

Rule: TypeAlias = Literal["squad", "published"]
"""How tokens are scored: as SQuAD v1.1 does, or as the Parametric RAG code does."""

_TOKEN_SCORES = {"squad": token_scores, "published": token_scores_published}


def measure(raw: str, answer: str, golds: Sequence[str], rule: Rule = "squad") -> dict[str, float]:
    """Every measure of one answer, each in [0, 1]; the best over the golden answers.

    Args:
        raw: the text that the model generated; presence looks at all of it.
        answer: what was extracted from it; the other measures look at this.
        golds: the golden answers; with none, every measure is 0.
        rule: of f1, precision and recall; the other measures are the same under both.

    Returns:
        em, f1, precision, recall, presence and rouge_l.

    Raises:
        PragError: another rule, or the library rouge-score is not installed.
    """
    if rule not in _TOKEN_SCORES:
        raise PragError(f"no rule {rule!r} of token scores: use one of {', '.join(_TOKEN_SCORES)}")
    tokens = _TOKEN_SCORES[rule](answer, golds)
    return {
        "em": exact_match(answer, golds),
        "f1": tokens.f1,
        "precision": tokens.precision,
        "recall": tokens.recall,
        "presence": presence(raw, golds),
        "rouge_l": rouge_l(answer, golds),
    }


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """ROUGE-L F-measure (Lin 2004) against the golden answer that it fits best, unstemmed.

    By the library rouge-score, whose tokens are runs of a to z and 0 to 9 of the lower-cased
    text: articles count, and an answer in another script has no tokens and scores 0.

    Raises:
        PragError: the library is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _missing("ROUGE-L", "rouge-score") from error
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    scores = (scorer.score(target=gold, prediction=answer)["rougeL"] for gold in golds)
    return max((float(score.fmeasure) for score in scores), default=0.0)


def retrieval_measures(
    hits: Mapping[str, Sequence[tuple[str, float | None]]],
    gold: Mapping[str, Collection[str]],
    depths: Sequence[int],
) -> dict[str, dict[str, float]]:
    """Recall at each depth and the reciprocal rank, of each question of `gold`.

    The ranking is the order of the hits, best first, whatever their scores say: hybrid and
    iterative retrieval give scores that do not fall with the rank, and ties.

    Args:
        hits: for each question's id its hits, (passage id, score or rank); the second is not
            looked at. Questions that are not in `gold` are not measured.
        gold: for each question's id the ids of the passages that it needs.
        depths: the k of recall@k.

    Returns:
        For "recall@k" (the share of the gold passages among the first k hits) and "mrr"
        (1 / rank of the first gold passage, 0 if none was found): question id -> value.

    Raises:
        PragError: a question without gold passages or without hits given (none found is an empty
            sequence), a passage twice in one ranking, a depth below 1, or the library
            ir-measures is not installed.
    """
    for k in depths:
        if k < 1:
            raise PragError(f"recall@{k}: a depth is at least 1")
    for question, needed in gold.items():
        if not needed:
            raise PragError(f"question {question}: no gold passages; leave it out of the measures")
        if question not in hits:
            raise PragError(f"question {question}: no hits given; search for it first")
        found = [passage for passage, _ in hits[question]]
        if len(set(found)) < len(found):
            twice = next(p for p in found if found.count(p) > 1)
            raise PragError(f"question {question}: passage {twice} is twice among its hits")
    try:
        import ir_measures
    except ImportError as error:
        raise _missing("retrieval measures", "ir-measures") from error

    names = {ir_measures.R @ k: f"recall@{k}" for k in depths} | {ir_measures.RR: "mrr"}
    # trec_eval, which computes them, sorts by score and breaks ties by id: the scores that it is
    # given are the negative ranks, so that its order is the one given.
    computed = ir_measures.iter_calc(
        list(names),
        [ir_measures.Qrel(q, p, 1) for q, needed in gold.items() for p in needed],
        [
            ir_measures.ScoredDoc(q, p, -float(rank))
            for q in gold
            for rank, (p, _) in enumerate(hits[q])
        ],
    )
    values: dict[str, dict[str, float]] = {
        name: dict.fromkeys(gold, 0.0) for name in names.values()
    }
    for metric in computed:
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def _missing(what: str, library: str) -> PragError:
    return PragError(f"{what}: needs {library}: pip install 'prag[eval]'")
