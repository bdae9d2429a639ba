"""Worked examples: questions of two hops, each with the short chain of thought that answers it.

A chain-of-thought prompt shows the model eight (2WikiMultihopQA) or eleven (HotpotQA) of them, the
numbers that the paper uses. They are this project's own, about subjects known everywhere, and kept
short because they stand in every such prompt and in every training sequence of that style. Each
ends in "So the answer is X.", the words after which `metrics.extract` takes the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkedExample:
    """A question, and the sentences that lead to its answer, the answer last."""

    question: str
    reasoning: str


_TWO_WIKI = (
    # Compositional: a relation of something that is itself named by a relation.
    WorkedExample(
        "When did the director of the film Psycho (1960) die?",
        "The film Psycho (1960) was directed by Alfred Hitchcock. Alfred Hitchcock died on "
        "29 April 1980. So the answer is 29 April 1980.",
    ),
    WorkedExample(
        "Where was the director of the film La Dolce Vita born?",
        "The film La Dolce Vita was directed by Federico Fellini. Federico Fellini was born in "
        "Rimini, Italy. So the answer is Rimini.",
    ),
    # Comparison: one attribute of two things named in the question.
    WorkedExample(
        "Who was born earlier, Johannes Kepler or Galileo Galilei?",
        "Johannes Kepler was born in 1571. Galileo Galilei was born in 1564, seven years earlier. "
        "So the answer is Galileo Galilei.",
    ),
    WorkedExample(
        "Are the rivers Loire and Ebro located in the same country?",
        "The Loire is a river in France. The Ebro is a river in Spain. So the answer is no.",
    ),
    # Inference: a relation that follows from two others.
    WorkedExample(
        "Who is the paternal grandfather of Queen Elizabeth II?",
        "The father of Queen Elizabeth II was King George VI. The father of King George VI was "
        "King George V. So the answer is King George V.",
    ),
    WorkedExample(
        "Who is the father-in-law of Catherine of Braganza?",
        "The husband of Catherine of Braganza was King Charles II of England. The father of "
        "Charles II was King Charles I. So the answer is King Charles I.",
    ),
    # Bridge comparison: one attribute of two people whom the question names by their films.
    WorkedExample(
        "Which film has the director who was born later, Citizen Kane or The Godfather?",
        "Citizen Kane was directed by Orson Welles, born in 1915. The Godfather was directed by "
        "Francis Ford Coppola, born in 1939. So the answer is The Godfather.",
    ),
    WorkedExample(
        "Do the directors of the films Seven Samurai and Tokyo Story have the same nationality?",
        "Seven Samurai was directed by Akira Kurosawa, who was Japanese. Tokyo Story was directed "
        "by Yasujirō Ozu, who was Japanese. So the answer is yes.",
    ),
)

_HOTPOT = (
    # Bridge: the question names a thing by a fact about it, and asks for another fact.
    WorkedExample(
        "In which city was the author of the novel Ulysses, about a single day in June 1904, born?",
        "The novel Ulysses was written by James Joyce. James Joyce was born in Dublin, Ireland. "
        "So the answer is Dublin.",
    ),
    WorkedExample(
        "Which river flows through the Italian city where the Uffizi Gallery stands?",
        "The Uffizi Gallery stands in Florence. The river that flows through Florence is the Arno. "
        "So the answer is the Arno.",
    ),
    WorkedExample(
        "In which year did the climber who reached the summit of Mount Everest with Tenzing Norgay "
        "in 1953 die?",
        "Tenzing Norgay reached the summit in 1953 with Edmund Hillary. Edmund Hillary died in "
        "2008. So the answer is 2008.",
    ),
    WorkedExample(
        "Which planet was discovered by the brother with whom the astronomer Caroline Herschel "
        "worked?",
        "Caroline Herschel worked with her brother William Herschel. William Herschel discovered "
        "the planet Uranus in 1781. So the answer is Uranus.",
    ),
    WorkedExample(
        "In which Italian city is the play that inspired the musical West Side Story set?",
        "West Side Story was inspired by Romeo and Juliet. Romeo and Juliet is set in Verona. "
        "So the answer is Verona.",
    ),
    WorkedExample(
        "What was the real name of the English writer who wrote the novel Animal Farm?",
        "Animal Farm was written by George Orwell. George Orwell was the pen name of Eric Arthur "
        "Blair. So the answer is Eric Arthur Blair.",
    ),
    WorkedExample(
        "Which sea lies on the coast of the country whose capital is Tallinn?",
        "Tallinn is the capital of Estonia. Estonia lies on the coast of the Baltic Sea. "
        "So the answer is the Baltic Sea.",
    ),
    WorkedExample(
        "Which instrument did the Venetian composer of The Four Seasons play?",
        "The Four Seasons was composed by Antonio Vivaldi. Antonio Vivaldi played the violin. "
        "So the answer is the violin.",
    ),
    # Comparison: two things named in the question, the answer one of them, yes or no.
    WorkedExample(
        "Which mountain is higher, Mont Blanc or Kilimanjaro?",
        "Mont Blanc is about 4,800 metres high. Kilimanjaro is about 5,900 metres high. "
        "So the answer is Kilimanjaro.",
    ),
    WorkedExample(
        "Were Charlotte Brontë and George Eliot both English novelists?",
        "Charlotte Brontë was an English novelist. George Eliot was an English novelist. "
        "So the answer is yes.",
    ),
    WorkedExample(
        "Are the cello and the oboe both string instruments?",
        "The cello is a string instrument. The oboe is a woodwind instrument. So the answer is no.",
    ),
)

WORKED: Mapping[str, tuple[WorkedExample, ...]] = {
    "2wikimultihopqa": _TWO_WIKI,
    "hotpotqa": _HOTPOT,
}
"""The worked examples of each question set that has any, in the order they are shown."""
