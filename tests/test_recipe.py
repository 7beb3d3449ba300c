"""Recipes: what they take, what they answer to what they do not, and that saving loses nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.files import read_yaml
from hf_detr_panoptic.recipe import Recipe, find_recipe, recipe_keys, recipe_names, recipe_schema
from hf_detr_panoptic.settings import Augmentation, FromBackbone, Postprocess, PostprocessChanges, Prepare
from hf_detr_panoptic.stage_settings import STAGES, Stage
from hf_detr_panoptic.training.train import plan


def test_a_recipe_needs_only_its_data() -> None:
    recipe = Recipe.from_dict({"data": "data/site"})
    assert recipe.model == "facebook/detr-resnet-50-panoptic"
    assert (recipe.seed, recipe.labels, recipe.push, recipe.prepared_folder) == (0, None, None, None)
    assert [stage.name for stage in recipe.stages.to_run] == ["detection", "mask_head", "finetune"]


def test_the_stages_of_the_design() -> None:
    """The table "The three stages" of the paper's recipe as this package runs it."""
    detection, mask_head, finetune = Recipe.from_dict({"data": "x"}).stages
    assert detection.training_arguments["learning_rate"] == 1e-4
    assert detection.backbone_learning_rate == 1e-5
    assert detection.training_arguments["max_grad_norm"] == 0.1
    assert mask_head.training_arguments["num_train_epochs"] == 25
    assert mask_head.training_arguments["learning_rate"] == 1e-4
    assert mask_head.drop_step(total_steps=2500, steps_per_epoch=100) == 1500  # after epoch 15
    assert mask_head.mask_queries == "matched"
    assert finetune.training_arguments["learning_rate"] == 1e-5
    assert finetune.backbone_learning_rate == 1e-6
    assert [stage.training_arguments["metric_for_best_model"] for stage in (detection, mask_head, finetune)] == [
        "box_ap_yours_and_all",
        "pq_yours_and_all",
        "pq_yours_and_all",
    ]
    assert {stage.freeze for stage in (detection, mask_head, finetune)} == {("stem", "layer1")}


def test_photos_and_marks() -> None:
    data = {"images": "photos", "annotations": "a.zip", "merge": {"sky": ["sky-other-merged"]}, "stuff": ["gravel"]}
    recipe = Recipe.from_dict({"data": data, "output": "runs/site"})
    assert isinstance(recipe.data, Prepare)
    assert (recipe.data.threshold, recipe.data.validation) == (0.85, 0.2)
    assert recipe.data.merge == {"sky": ("sky-other-merged",)}
    assert recipe.data.stuff == ("gravel",)
    assert recipe.prepared_folder == Path("runs/site/data")
    assert Recipe.from_dict({"data": data | {"out": "data/site"}}).prepared_folder == Path("data/site")


def test_postprocess_names_what_a_model_remembers_and_null_leaves_it() -> None:
    assert list(PostprocessChanges.model_fields) == list(Postprocess.model_fields)
    recipe = Recipe.from_dict({"data": "x", "postprocess": {"threshold": 0.6, "fill": None}})
    assert recipe.postprocess.to_dict() == dict.fromkeys(Postprocess.model_fields) | {"threshold": 0.6}


def test_augmentation_is_the_papers_in_proportion() -> None:
    """Carion et al. 2020, A.4: short side 480 to 800, long side 1333, crops of 384 to 600 at 400, 500 or 600."""
    paper = Augmentation().for_size(800, 1333)
    assert paper.short_sides == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (paper.longest, paper.crop_sides, paper.crop_window) == (1333, (400, 500, 600), (384, 600))
    half = Augmentation(flip=0.0, longest=500).for_size(400)
    assert (half.short_sides[-1], half.crop_window, half.longest, half.flip) == (400, (192, 300), 500, 0.0)


def laughing(name: str, form: str, times: int, lines: int) -> str:
    """Each line holds the one before so many times."""
    return "".join(
        f"{name}{n}: &{name}{n} {form.format(', '.join([f'*{name}{n - 1}'] * times))}\n" for n in range(1, lines + 1)
    )


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "r.yaml", "empty"),
        ("# nothing but a comment\n", "r.yaml", "empty"),
        ("- a\n- b\n", "r.yaml", "is a list, not a mapping"),
        ("data: [\n", "r.yaml, line 2, column 1", "not YAML"),
        ("data: x\n\tseed: 1\n", "r.yaml, line 2, column 1", "Indent with spaces"),
        ("data: !!python/object:os.system x\n", "r.yaml, line 1", "not YAML"),
        ("data: 2001-13-45\n", "r.yaml", "a value cannot be read (month must be in 1..12)"),
        ("data: !!int x\n", "r.yaml", "a value cannot be read (invalid literal for int"),
        ("a: &a [*a]\n", "r.yaml", "its anchors stand for too much"),
        # 9¹² words in thirteen lines; merged, 8⁸ keys are looked at for one
        ("a0: &a0 [x]\n" + laughing("a", "[{}]", 9, 12), "r.yaml", "its anchors stand for too much"),
        ("b0: &b0 {k: 1}\n" + laughing("b", "{{<<: [{}]}}", 8, 8), "r.yaml", "its anchors stand for too much"),
        ("seed: 1\n", "r.yaml", "'data' is missing"),
        ("data: x\nsed: 1\n", "r.yaml, line 2, sed", "unknown key 'sed'. Did you mean 'seed'?"),
        ("data: x\nseed: 1\nseed: 2\n", "r.yaml", "stands twice, in lines 2 and 3"),
        ("data: x\nseed: one\n", "r.yaml, line 2, seed", "seed is the text 'one'. Write a whole number"),
        ("data: x\nseed: true\n", "r.yaml, line 2, seed", "seed is true. Write a whole number"),
        ("data: x\nseed: .nan\n", "r.yaml, line 2, seed", "seed is nan"),
        ("data: x\nseed: -1\n", "r.yaml, line 2, seed", "less than 0"),
        ("1: x\n", "r.yaml", "the key 1 is no text"),
        ("data: x\nlosses:\n  ce: -1\n", "r.yaml, line 3, losses.ce", "less than 0"),
        ("data: x\nlosses:\n  class: 1\n", "r.yaml, line 3, losses.class", "unknown key 'class'"),
        ("data: x\nstages:\n  detction: {}\n", "r.yaml, line 3, stages.detction", "Did you mean 'detection'?"),
        ("data: x\nstages: [detection]\n", "r.yaml, line 2, stages", "not a mapping"),
        ("data: x\nstages:\n  detection: {skip: 1}\n", "line 3, stages.detection.skip", "Write true or false"),
        ("data: x\ndetection: {}\n", "r.yaml, line 2, detection", "Write it under `stages:`"),
        ("data: x\nnum_train_epochs: 3\n", "line 2, num_train_epochs", "Write it under a stage"),
        ("data: x\nthreshold: 0.9\n", "line 2, threshold", "Write it under `data:`"),
        ("data: x\nlabels: []\n", "line 2, labels", "nothing is left to learn"),
        ("data: x\nlabels: [pipe, pipe]\n", "line 2, labels", "'pipe' is named twice"),
        ("data: x\nsize: {shortest_edge: 400}\n", "line 2, size", "go together"),
        ("data: x\nsize: {shortest_edge: 800, longest_edge: 400}\n", "line 2, size", "more than longest_edge"),
        ("data: x\naugmentation: {crop_window: [9, 3]}\n", "line 2, augmentation.crop_window", "from 9 to 3"),
        ("data: x\naugmentation: {crop_window: [9]}\n", "augmentation.crop_window", "a list of 2 whole numbers"),
        ("data: x\naugmentation: {short_sides: []}\n", "augmentation.crop", "crop: 0"),
        ("data: x\npush: {private: true}\n", "line 2, push", "'repository' is missing"),
        ("data: x\npush: {repository: https://hf.co/a/b}\n", "push.repository", "Write user/name"),
        ("data: {images: photos}\n", "line 1, data", "'annotations' is missing"),
        ("data: {images: p, annotations: a, threshold: 85}\n", "data.threshold", "more than 1"),
        ("data: {images: p, annotations: a, stuff: [on, off]}\n", "data.stuff", "put a name like that in quotes"),
        ("data: {images: p, annotations: a, things: [x], stuff: [x]}\n", "data.stuff", "in things and in stuff"),
        ("data: {images: p, annotations: a, group_by: '('}\n", "data.group_by", "no regular expression"),
        ("data: {images: p, annotations: a, validation: 0.6, test: 0.4}\n", "data.validation", "nothing to train on"),
        ("data: {images: p, annotations: a, boxes: refin}\n", "data.boxes", "Did you mean 'refine'?"),
        (
            "data: x\nstages: {detection: {skip: true}, mask_head: {skip: true}, finetune: {skip: true}}\n",
            "line 2, stages",
            "every stage is skipped",
        ),
    ],
)
def test_what_is_wrong_is_said_and_where(tmp_path: Path, text: str, where: str, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert where in str(caught.value.where)
    assert what in str(caught.value)


def test_a_drop_beyond_the_end_is_odd_not_wrong(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Recipe.from_dict({"data": "x", "stages": {"mask_head": {"num_train_epochs": 5, "lr_drop": 4}}})
        assert not caplog.records
        Recipe.from_dict(
            {"data": "x", "stages": {"mask_head": {"num_train_epochs": 5, "lr_drop": 15}}}, where="r.yaml"
        )
    (record,) = caplog.records
    assert "r.yaml, stages.mask_head.lr_drop" in record.getMessage()


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: x\nstages:\n  detection: {learning_rate: 1e-4, eval_strategy: no, max_steps: 1e3}\n")
    arguments = Recipe.load(path).stages.detection.training_arguments
    assert (arguments["learning_rate"], arguments["eval_strategy"], arguments["max_steps"]) == (1e-4, "no", 1000)


def test_the_output_has_the_recipes_name(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("data: x\n")
    assert Recipe.load(path).output == "runs/site"
    assert Recipe.load(path, ["--output", "elsewhere"]).output == "elsewhere"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        Recipe.load(tmp_path)


class TestFiles:
    """What the recipe names is looked for before anything loads."""

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "data" / "site").mkdir(parents=True)
        (tmp_path / "photos").mkdir()
        (tmp_path / "marks.zip").touch()
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        "data",
        [
            "data/site",
            "photos/",
            "user/name",
            "name",
            {"images": "photos", "annotations": "marks.zip"},
            {"images": "user/photos-and-masks", "annotations": None},
        ],
    )
    def test_there_or_perhaps_on_the_hub(self, data: Any, tmp_path: Path) -> None:
        before = sorted(tmp_path.iterdir())
        Recipe.from_dict({"data": data, "output": "runs/x"}).check_files()
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        ("recipe", "where", "what"),
        [
            ({"data": "data/sit"}, "data", "Did you mean 'site'?"),
            ({"data": "./site"}, "data", "'./site' does not exist"),
            ({"data": "/nowhere/at/all"}, "data", "relative to the working directory"),
            ({"data": "~/site"}, "data", "~ is not expanded"),
            ({"data": "marks.zip"}, "data", "'marks.zip' is a file. Name the dataset's folder."),
            ({"data": "photos/../marks.zip"}, "data", "is a file. Name the dataset's folder."),
            ({"data": "data/site", "model": "marks.zip"}, "model", "is a file. Name the model's folder."),
            (
                {"data": "data/site", "model": {"backbone": "resnet18", "weights": "r.pth"}},
                "model.weights",
                "not exist",
            ),
            ({"data": "data/site", "output": "marks.zip"}, "output", "'marks.zip' is no folder"),
            ({"data": "data/site", "output": "marks.zip/runs/x"}, "output", "'marks.zip' is no folder"),
            ({"data": "data/site", "output": "/proc/runs/x"}, "output", "nothing can be written into '/"),
            ({"data": "data/site", "model": "photos/model"}, "model", "does not exist"),
            ({"data": {"images": "photo", "annotations": "marks.zip"}}, "data.images", "Did you mean 'photos'?"),
            ({"data": {"images": "marks.zip", "annotations": "marks.zip"}}, "data.images", "Name a folder"),
            ({"data": {"images": "photos", "annotations": "mark.zip"}}, "data.annotations", "'marks.zip'"),
            (
                {"data": {"images": "photos", "annotations": "marks.zip", "labeler": "data/lab"}},
                "data.labeler",
                "does not exist",
            ),
        ],
    )
    def test_missing(self, recipe: dict[str, Any], where: str, what: str) -> None:
        with pytest.raises(RecipeError, match=what) as caught:
            Recipe.from_dict(recipe).check_files()
        assert caught.value.where == where


NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["1e-4", "no", "null", "~", "0777", "1:30", "<<", "- a", "#", "0\x85", "a\nb"]
)
SHARE = st.floats(0, 1)


def _some(**strategies: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


LISTS = st.lists(NAMES, max_size=3)
STAGE = _some(
    skip=st.just(False),
    backbone_learning_rate=st.none() | st.floats(1e-9, 1),
    freeze=st.lists(st.sampled_from(["stem", "layer1", "layer2", "heads"]), max_size=2),
    early_stopping=st.none() | st.integers(1, 9),
    ema=st.none() | st.floats(0.5, 0.9999),
    repeat_factor=st.none() | st.floats(1e-4, 1),
    learning_rate=st.floats(1e-9, 1),
    weight_decay=st.floats(0, 1),
    bf16=st.booleans(),
    run_name=NAMES,
    report_to=st.none() | NAMES | LISTS,
    lr_scheduler_type=st.sampled_from(["linear", "cosine"]),
    optim=st.sampled_from(["adamw_torch", "sgd"]),
    warmup_steps=st.floats(0, 100),
) | _some(max_steps=st.integers(1, 10**6), lr_drop=st.none() | SHARE.filter(bool), dataloader_num_workers=st.just(0))
MASK_HEAD = st.builds(
    dict.__or__, STAGE, _some(mask_queries=st.sampled_from(["matched", "confident"]), threshold=SHARE)
)
DATA = NAMES.filter(str.strip) | st.builds(
    dict.__or__,
    st.fixed_dictionaries({"images": NAMES, "annotations": NAMES}),
    _some(
        drop=LISTS,
        rename=st.dictionaries(NAMES, NAMES, max_size=2),
        merge=st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
        stuff=LISTS,
        leakage=st.none() | st.floats(0.1, 1),
        out=st.none() | NAMES,
    ),
)
RECIPES = st.builds(
    dict.__or__,
    st.fixed_dictionaries({"data": DATA}),
    _some(
        model=NAMES,
        labels=st.none() | st.lists(NAMES, min_size=1, max_size=3, unique=True),
        output=NAMES,
        seed=st.integers(0, 2**32 - 1),
        size=st.just({"shortest_edge": 400, "longest_edge": 666}),
        augmentation=_some(flip=SHARE, scale_jitter=st.just([0.1, 2]), short_sides=st.just([32, 64])),
        losses=_some(ce=st.floats(0, 10), dice=st.floats(0, 10)),
        postprocess=_some(threshold=SHARE, fill=st.sampled_from(["void", "argmax"])),
        push=_some(private=st.booleans(), license=NAMES).map(lambda push: push | {"repository": "user/name"}),
        stages=_some(detection=STAGE, mask_head=MASK_HEAD, finetune=STAGE),
    ),
)


@given(data=RECIPES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_saved_and_loaded_it_is_the_same(data: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.from_dict(data)
    path = tmp_path / "saved.yaml"
    recipe.save(path, header="hf-detr-panoptic train saved.yaml\n\nWritten by a test.")
    assert path.read_text(encoding="utf-8").startswith("# hf-detr-panoptic train saved.yaml\n#\n# Written")
    assert Recipe.load(path) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["saved.yaml"]


def test_no_torch_is_needed_to_read_one() -> None:
    code = (
        "import sys; from hf_detr_panoptic.recipe import Recipe;"
        "Recipe.load('construction', ['--max_steps', '3']).to_dict();"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "set()"


def test_every_stage_has_its_place() -> None:
    stages = Recipe.from_dict({"data": "x"}).stages
    assert tuple(stage.name for stage in stages) == STAGES
    assert stages["mask_head"] == Stage.of("mask_head")
    with pytest.raises(RecipeError, match="Did you mean 'mask_head'"):
        stages["mask_hed"]


# --- the command `recipe`, and the schema that it writes for editors


def test_a_written_recipe_is_the_one_it_was_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in recipe_names():
        out = tmp_path / f"my-{name}.yaml"
        assert main(["recipe", name, "--out", str(out)]) == 0
        lines = out.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# yaml-language-server: $schema=./recipe.schema.json"
        assert lines[1] == f"# hf-detr-panoptic train {out}"
        assert Recipe.load(out) == Recipe.load(name, ["--output", f"runs/my-{name}"])
        assert max(map(len, lines)) < 120
    assert f"next: hf-detr-panoptic train {out} --dry-run" in capsys.readouterr().out
    keys = [line.strip().partition(":")[0] for line in (tmp_path / "my-construction.yaml").read_text().splitlines()]
    ours = [key.path[-1] for key in recipe_keys() if key.path[0] not in ("push", "model") or len(key.path) == 1]
    assert [key for key in ours if key not in keys] == []
    assert "  # how often it is mirrored" in (tmp_path / "my-construction.yaml").read_text().splitlines()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("data: x\n")
    assert main(["recipe", "quick", "--out", str(tmp_path / "mine.yaml")]) == 2
    assert "it is there already" in capsys.readouterr().err
    (tmp_path / "recipe.schema.json").write_text("{}")
    assert main(["recipe", "quick", "--out", str(tmp_path / "other.yaml")]) == 2
    assert "another file's schema" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "mine.yaml": "data: x\n",
        "recipe.schema.json": "{}",
    }


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """JSON Schema, as far as ours goes (draft 2020-12)."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    for word in ("anyOf", "oneOf"):
        if word in schema and not any(fits(value, choice, root) for choice in schema[word]):
            return False
    kinds = {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list, "integer": int}
    kind = schema.get("type")
    if kind == "number" or kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int if kind == "integer" else int | float):
            return False
    elif kind and not isinstance(value, kinds[kind]):
        return False
    number, size = isinstance(value, int | float), len(value) if isinstance(value, list) else None
    broken = [
        "enum" in schema and value not in schema["enum"],
        "const" in schema and value != schema["const"],
        number and value < schema.get("minimum", value),
        number and value > schema.get("maximum", value),
        number and "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"],
        number and "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"],
        size is not None and not schema.get("minItems", 0) <= size <= schema.get("maxItems", size),
    ]
    if any(broken):
        return False
    if isinstance(value, list):
        return all(fits(entry, schema.get("items", {}), root) for entry in value)
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if not set(schema.get("required", ())) <= value.keys():
            return False
        return all(
            fits(entry, known[key], root) if key in known else others is not False and (
                others is True or fits(entry, others, root))
            for key, entry in value.items()
        )  # fmt: skip
    return True


@pytest.mark.parametrize("name", recipe_names())
def test_editors_accept_our_recipes(name: str) -> None:
    schema = recipe_schema()
    assert fits(read_yaml(find_recipe(name))[0], schema, schema)
    assert fits(Recipe.load(name).to_dict(), schema, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sed": 3},
        {"seed": "3"},
        {"seed": True},
        {"seed": -1},
        {"data": {"annotations": "a"}},
        {"data": {"images": "p", "boxes": "refin"}},
        {"data": {"images": "p", "validation": 1}},
        {"data": {"images": "p", "treshold": 0.9}},
        {"augmentation": {"crop_window": [1, 2, 3]}},
        {"push": {"private": True}},
        {"stages": {"detction": {}}},
        {"stages": {"detection": {"mask_queries": "matched"}}},
        {"stages": {"detection": {"num_train_epoch": 3}}},
        {"stages": {"detection": {"num_train_epochs": 0}}},
        {"stages": {"finetune": {"optim": "adamw_torhc"}}},
    ],
    ids=str,
)
def test_editors_mark_what_is_wrong(wrong: dict[str, Any]) -> None:
    schema = recipe_schema()
    assert not fits({"data": "x"} | wrong, schema, schema)
    with pytest.raises(RecipeError):
        Recipe.from_dict({"data": "x"} | wrong)


def test_editors_show_what_a_key_means() -> None:
    blocks = recipe_schema()["$defs"]
    assert blocks["Prepare"]["properties"]["leakage"]["description"].startswith("an auto thing with this share")
    assert blocks["mask_head"]["properties"]["lr_drop"]["description"].startswith("the epoch after which")
    assert {"num_train_epochs", "optim"} <= blocks["finetune"]["properties"].keys()


def test_the_package_and_its_help_do_without_pydantic() -> None:
    code = (
        "import sys, hf_detr_panoptic; from hf_detr_panoptic.cli import main; main(['--help']);"
        "print({'pydantic', 'yaml', 'torch', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "set()"


# --- a pretrained backbone under a fresh transformer


def test_a_backbone_is_a_start_and_trains_longer_where_nobody_says_how_long() -> None:
    start = {"backbone": "resnet18", "weights": "here.pth", "layers": 2}
    recipe = Recipe.from_dict({"data": "data/site", "model": start})
    assert recipe.model == FromBackbone(backbone="resnet18", weights=Path("here.pth"), layers=2)
    assert recipe.stages.detection.training_arguments["num_train_epochs"] == 300
    assert recipe.stages.detection.min_steps == 10_000
    assert recipe.stages.mask_head.training_arguments["num_train_epochs"] == 25
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for own in ({"num_train_epochs": 40}, {"max_steps": 5}):
        stage = Recipe.from_dict({"data": "data/site", "model": start, "stages": {"detection": own}}).stages.detection
        assert {key: stage.training_arguments.get(key) for key in own} == own
        assert stage.min_steps is None
    few = Recipe.from_dict({"data": "data/site", "model": start, "stages": {"detection": {"min_steps": 7}}})
    assert (few.stages.detection.min_steps, few.stages.detection.training_arguments["num_train_epochs"]) == (7, 300)


def test_a_flag_for_a_backbone_takes_the_place_of_the_recipes_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: someone/detr\ndata: data/site\n")
    recipe = Recipe.load(path, ["--model.backbone", "resnet18", "--model.queries", "30"])
    assert recipe.model == FromBackbone(backbone="resnet18", queries=30)
    path.write_text("model: {backbone: resnet18}\ndata: data/site\n")
    assert Recipe.load(path, ["--model", "someone/detr"]).model == "someone/detr"
    assert "resnet18 under a fresh transformer" in plan(Recipe.load(path))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"weights": "w.pth"}, "'backbone' is missing. It says its name in timm"),
        ({"backbone": "resnet18", "wide": 64}, "unknown key 'wide'. Did you mean 'width'"),
        ({"backbone": "resnet18", "width": 100}, "width is 100. Give 32, 64, or a multiple of 128"),
        (3, "model is 3. Write text or a mapping"),
    ],
)
def test_what_is_wrong_with_a_start_is_said(model: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.from_dict({"data": "data/site", "model": model})


def test_a_fresh_transformer_does_not_skip_detection() -> None:
    stages = {"detection": {"skip": True}}
    with pytest.raises(RecipeError, match="nothing else teaches a fresh transformer"):
        Recipe.from_dict({"data": "data/site", "model": {"backbone": "resnet18"}, "stages": stages})
