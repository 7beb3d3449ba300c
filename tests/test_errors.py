import pickle

import pytest

from hf_detr_panoptic.errors import AnnotationError, HfDetrPanopticError, did_you_mean


def test_a_message_says_where_what_and_what_to_do() -> None:
    error = AnnotationError("the polygon has 4 numbers", where="a.json, annotation 7", fix="Draw it again.")
    assert str(error) == "a.json, annotation 7: the polygon has 4 numbers. Draw it again."
    assert str(AnnotationError("the polygon has 4 numbers")) == "the polygon has 4 numbers"
    assert isinstance(error, HfDetrPanopticError)


def test_an_error_survives_the_way_home_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(AnnotationError("bad", where="a.json", fix="Mend it.")))
    assert type(error) is AnnotationError
    assert (error.what, error.where, error.fix) == ("bad", "a.json", "Mend it.")


@pytest.mark.parametrize(
    ("word", "known", "sentence"),
    [
        ("persn", ["person", "car"], "Did you mean 'person'?"),
        ("PERSON", ["person", "car"], "Did you mean 'person'?"),
        ("boats", ["boat", "boot"], "Did you mean 'boat' or 'boot'?"),
        ("zebra", ["person", "car"], "Known: person, car."),
        ("zebra", [], "None are known here."),
        ("q", [f"name{n}" for n in range(20)], "Known: " + ", ".join(f"name{n}" for n in range(12)) + " and 8 more."),
    ],
)
def test_did_you_mean(word: str, known: list[str], sentence: str) -> None:
    assert did_you_mean(word, known) == sentence
