"""What a stranger may hand over: each maker writes a case into its folder and says which command meets it.

`spoilt.py` has the ways in which things are spoilt.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from spoilt import as_json, changed, damaged, hostile_photo, spoil_json
from world import World

SECRET = "the-secret-of-somebody-else"
Words = list[object]


class Case:
    """`folder` is the case's own; `ran` comes into being where code of the stranger's runs."""

    def __init__(self, rng: random.Random, folder: Path, world: World) -> None:
        self.rng, self.folder, self.world = rng, folder, world
        self.out, self.ran, self.private = folder / "out", folder / "ran", world.root / "private.json"
        self.fifos: list[Path] = []

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def photos(self, count: int = 3) -> Path:
        """Some photos of the site, under their names."""
        folder = self.folder / "photos"
        folder.mkdir()
        for path in sorted((self.world.site / "photos").iterdir())[:count]:
            shutil.copyfile(path, folder / path.name)
        return folder

    def meeting_marks(self, marks: Path) -> Words:
        """A command that reads these annotations."""
        world = self.world
        photos, autolabels = world.site / "photos", ("--autolabels", world.data / "autolabels")
        return self.pick(
            ["prepare", "--images", photos, "--annotations", marks, "--labeler", world.labeler, "--out", self.out],
            ["prepare", "--images", photos, "--annotations", marks, "--labeler", world.labeler, "--dry-run"],
            ["overlay", "--images", photos, "--annotations", marks, "--out", self.out, "--max-size", 90, *autolabels],
            ["import-review", world.data, marks, "--out", self.out],
        )


# --- photos


def photo(case: Case) -> Words:
    folder = case.photos()
    names = [path.name for path in folder.iterdir()]
    stem = case.pick("hostile", Path(names[0]).stem)
    made = hostile_photo(case, folder, stem)
    world = case.world
    marks = ["--annotations", world.site / "marks.json", "--labeler", world.labeler]
    # Thousands of tiles of a photo that is large and no more are honest work: minutes, on a busy machine.
    side = 60 if made.lstat().st_size < 20_000 else 900
    tiles = case.pick([], [], ["--tile", side])
    return case.pick(
        ["prepare", "--images", folder, *marks, "--unannotated", "auto", "--out", case.out, *tiles],
        ["prepare", "--images", folder, *marks, "--dry-run"],
        ["predict", world.model, folder, "--out", case.out, *tiles],
        ["trace", world.model, made, "--out", case.out],
        ["predict", world.model, made, "--out", case.out],
    )


def mask(case: Case) -> Words:
    """A picture that stands for marks."""
    folder = case.folder / "masks"
    folder.mkdir()
    for place, path in enumerate(sorted((case.world.site / "photos").iterdir())[:3]):
        if place:
            Image.new("L", Image.open(path).size, place).save(folder / f"{path.stem}.png")
        else:
            hostile_photo(case, folder, path.stem)
    return [*case.meeting_marks(folder), *case.pick([], ["--format", "masks", "--values", "1=pipe,2=crack"])]


# --- marks


def marks_of(case: Case) -> dict[str, Any]:
    return json.loads((case.world.site / "marks.json").read_text())


def json_marks(case: Case) -> Words:
    rng, whole = case.rng, marks_of(case)
    name = whole["images"][0]["file_name"]
    width, height = whole["images"][0]["width"], whole["images"][0]["height"]
    labelme = {"imagePath": name, "imageWidth": width, "imageHeight": height, "version": "5.0", "flags": {}}
    labelme["shapes"] = [
        {
            "label": "pipe",
            "points": [[1, 1], [50, 1], [50, 40]],
            "shape_type": rng.choice(("polygon", "circle", "mask")),
        }
    ]
    annotation = whole["annotations"][0]
    kind = rng.randrange(6)
    if kind == 0:
        annotation["segmentation"] = {
            "size": [height, width],
            "counts": rng.choice(([10, 50, 40], "5l1`0_", "\x01" * 99)),
        }
    elif kind == 1:
        points = [rng.uniform(0, 10 ** rng.choice((2, 4, 7))) for _ in range(2 * rng.choice((3, 8_000, 80_000)))]
        annotation["segmentation"] = [points]
    elif kind == 2:
        annotation |= {
            "segmentation": [],
            "bbox": [1, 1, 30, 30],
            "attributes": {"rotation": rng.choice((45, 1e300, -1))},
        }
    value = changed(rng, labelme if kind == 5 else whole) if rng.random() < 0.9 else whole
    path = case.folder / rng.choice(("marks.json", "instances_default.json", f"{Path(name).stem}.json"))
    path.write_bytes(as_json(rng, value))
    return case.meeting_marks(path)


def xml_marks(case: Case) -> Words:
    rng = case.rng
    name = sorted((case.world.site / "photos").iterdir())[0].name
    shapes = (
        '<polygon label="pipe" points="1,1;50,1;50,40" z_order="1"/>'
        '<box label="crack" xtl="1" ytl="1" xbr="30" ybr="30"/>'
        '<mask label="pipe" rle="0, 1, 3, 2" left="1" top="2" width="3" height="2"/>'
        '<ellipse label="pipe" cx="40" cy="30" rx="30" ry="10" rotation="9"/>'
    )
    image = f'<image id="0" name="{name}" width="72" height="96">{shapes}</image>'
    text = f"<annotations><version>1.1</version>{image}</annotations>"
    how = rng.randrange(8)
    if how == 0:
        layers = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
        text = f'<!DOCTYPE a [<!ENTITY e0 "lol">{layers}]>' + text.replace('"pipe"', '"&e9;"')
    elif how == 1:
        text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{case.private.as_uri()}">]>' + text.replace(">1.1<", ">&x;<")
    elif how == 2:
        text = "<annotations>" + "<image>" * 200_000
    elif how == 3:
        text = text.replace("1,1;50,1", ";".join(f"{n},{n}" for n in range(100_000)))
    elif how == 4:
        word = rng.choice(("1,1;50,1;50,40", "72", "96", "pipe", "0, 1, 3, 2", "9", "30", name, "1.1"))
        other = ("", "nan", "1e999", "-5", "0x10", "99999999", "../../a", "&lt;b&gt;", ";;;", "1,2,3;4")
        text = text.replace(f'"{word}"', f'"{rng.choice(other)}"')
    content = text.encode(rng.choice(("utf-8", "utf-8", "utf-16", "latin-1")))
    path = case.folder / "annotations.xml"
    path.write_bytes(damaged(rng, content) if how >= 6 else content)
    return case.meeting_marks(path)


def zip_marks(case: Case) -> Words:
    rng = case.rng
    path = case.folder / "export.zip"
    marks = json.dumps(marks_of(case)).encode()
    names = (
        "../../ran",
        "/tmp/ran-of-a-zip",
        "a/../../ran",
        "C:\\ran",
        "..\\ran",
        "ran\0.json",
        "x" * 300,
        "é.json",
        "ran/",
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if rng.random() < 0.8:
            archive.writestr("annotations/instances_default.json", marks)
        how = rng.randrange(9)
        if how == 0:
            archive.writestr(rng.choice(names), marks)
        elif how == 1:
            archive.writestr("annotations/more.json", b"[" + b"{}," * 20_000_000 + b"{}]")
        elif how == 2:
            archive.writestr("photos/a.png", bytes(200_000_000))
        elif how == 3:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as nested:
                nested.writestr("marks.json", marks)
            archive.writestr("inner.zip", inner.getvalue())
        elif how == 4:
            link = zipfile.ZipInfo("annotations/link.json")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, str(case.private))
        elif how == 5:
            for number in range(20_000):
                archive.writestr(f"annotations/{number}.json", b"{}")
        elif how == 6:
            archive.writestr("annotations/instances_default.json", marks)  # twice
    content = path.read_bytes()
    spoilt = rng.randrange(5)
    if spoilt == 0:
        content = damaged(rng, content)
    elif spoilt == 1:  # encrypted, or squeezed in a way that nobody knows
        at, value = rng.choice(((6, 1), (8, 99), (8, 12), (8, 14), (8, 9)))
        local, central = content.find(b"PK\3\4"), content.find(b"PK\1\2")
        changed_ = bytearray(content)
        changed_[local + at], changed_[central + at + 2] = value, value
        content = bytes(changed_)
    path.write_bytes(content)
    return case.meeting_marks(path)


def yolo_or_voc(case: Case) -> Words:
    """Labels in text, their YAML, maps in colours with a list of what these mean, and boxes in XML."""
    rng, folder = case.rng, case.folder / "export"
    photos = sorted((case.world.site / "photos").iterdir())[:3]
    how = rng.randrange(4)
    files: dict[str, bytes] = {}
    if how < 2:
        line = "0 0.1 0.1 0.5 0.1 0.5 0.6"
        other = ("nan", "-1", "1e999", "9" * 5000, "", "../x", "0x1", "\ud800", "0 " * 200_000)
        lines = line.replace(rng.choice(("0.1", "0.6", "0 ")), rng.choice(other)) if how else line
        files = {f"labels/{path.stem}.txt": f"{lines}\n".encode("utf-8", "replace") for path in photos}
        text = f"names: {rng.choice(_YAML).replace('RAN', str(case.ran))}" if rng.random() < 0.5 else "names: [pipe]"
        files[rng.choice(("data.yaml", "classes.txt"))] = text.encode("utf-8", "replace")
    elif how == 2:
        box = "<bndbox><xmin>1</xmin><ymin>NUMBER</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
        box = box.replace("NUMBER", rng.choice(("1", "nan", "1e999", "", "-5")))
        outline = "<polygon>" + "<x1>1</x1>" * rng.choice((0, 1, 50_000)) + "</polygon>"
        entry = f"<annotation><object><name>pipe</name>{box}{outline}</object></annotation>"
        files = {f"Annotations/{path.stem}.xml": entry.encode() for path in photos}
    else:
        picture = io.BytesIO()
        Image.new("RGB", Image.open(photos[0]).size, (128, 0, 0)).save(picture, "PNG")
        files = {f"SegmentationClass/{path.stem}.png": picture.getvalue() for path in photos}
        listed = rng.choice(("pipe:128,0,0::", "pipe:::", "pipe:999,0,0::", "pipe,1,2", "\0", "x:1,2,3::\n" * 20_000))
        files["labelmap.txt"] = listed.encode()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(rng, content) if rng.random() < 0.2 else content)
    values = case.folder / "values.json"
    values.write_bytes(as_json(rng, changed(rng, {"pipe": [128, 0, 0], "crack": 1, "rail": "#800000"})))
    return [*case.meeting_marks(folder), *case.pick([], [], ["--format", "masks", "--values", values])]


# --- recipes

_YAML = (
    "!!python/object/apply:os.system ['touch RAN']",
    "!!python/name:os.system",
    "2001-13-45",
    "2001-12-14t21:59:43.10-05:00",
    "!!int x",
    "!!float x",
    "!!binary x",
    "!!timestamp x",
    "!!bool x",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "&a [*a, *a]",
    "*nobody",
    "{{a: 1}: 2}",
    "? [a]\n: b",
    "1e999",
    ".nan",
    "0o17",
    "1:30:00",
    "'" + "x" * 100_000 + "'",
    "[" * 5000,
    "{a: " * 500,
    "\t- a",
    "null",
    "~",
    "yes",
    "\x07",
    "-5",
    "10000000000000000000000",
    "[1, 2",
)


def yaml_file(case: Case) -> Words:
    rng = case.rng
    training = rng.random() < 0.6
    text = (case.world.recipe if training else case.world.inputs / "prepare.yaml").read_text()
    lines = text.splitlines()
    how = rng.randrange(6)
    if how < 3:
        at = rng.randrange(len(lines))
        key = lines[at].partition(":")[0]
        value = rng.choice(_YAML).replace("RAN", str(case.ran))
        lines[at] = f"{key}: {value}"
    elif how == 3:
        laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, rng.choice((4, 8, 12)))]
        if rng.random() < 0.5:
            laughs = ["b0: &b0 {k: 1}"] + [
                f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in range(1, 9)
            ]
        lines[rng.randrange(len(lines)) : 0] = laughs if rng.random() < 0.5 else []
        lines += laughs
    elif how == 4:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    path = case.folder / "recipe.yaml"
    path.write_bytes(damaged(rng, content) if how == 5 else content)
    if training:
        return ["train", path, "--dry-run", "--output", case.out]
    return ["prepare", "--config", path, "--dry-run", "--out", case.out]


# --- models


class _Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def model(case: Case) -> Words:
    rng, world = case.rng, case.world
    folder = case.folder / "model"
    shutil.copytree(rng.choice((world.model, world.labeler)), folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    how = rng.randrange(10)
    if how < 3:
        spoil_json(rng, config)
    elif how == 3:
        spoil_json(rng, folder / "preprocessor_config.json")
    elif how == 4:
        content = weights.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        head = changed(rng, json.loads(content[8 : 8 + length]))
        text = json.dumps(head).encode("utf-8", "surrogatepass") if rng.random() < 0.8 else b"{"
        weights.write_bytes(
            struct.pack("<Q", rng.choice((len(text), len(text), 2**40))) + text + content[8 + length :]
        )
    elif how == 5:
        weights.write_bytes(damaged(rng, weights.read_bytes()))
    elif how == 6:
        (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(case.ran)!r}).touch()\nclass Evil: pass\n")
        content = json.loads(config.read_text())
        content["auto_map"] = {
            "AutoConfig": "evil.Evil",
            "AutoModel": "evil.Evil",
            "AutoModelForUniversalSegmentation": "evil.Evil",
        }
        if rng.random() < 0.5:
            content |= {"model_type": "evil"}
        config.write_text(json.dumps(content))
    elif how == 7:
        for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
            (folder / name).write_bytes(pickle.dumps(_Exploit(case.ran)))
        weights.unlink()
    elif how == 8:
        weights.unlink()
        place = rng.choice(("../../../private.json", str(case.private), "nowhere.safetensors"))
        index = {"metadata": {"total_size": 1}, "weight_map": {"detr.class_labels_classifier.weight": place}}
        (folder / "model.safetensors.index.json").write_bytes(as_json(rng, index))
    else:
        (folder / "adapter_config.json").write_bytes(
            as_json(rng, {"peft_type": "LORA", "base_model_name_or_path": "x"})
        )
        for name in ("generation_config.json", "config.json", "model.safetensors"):
            if rng.random() < 0.4:
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(case.private) if rng.random() < 0.5 else (folder / name).mkdir()
    shapes, photos = world.shapes, world.site / "photos"
    return case.pick(
        ["evaluate", "--model", folder, "--data", shapes],
        ["predict", folder, shapes / "images", "--out", case.out],
        ["trace", folder, next(iter(sorted((shapes / "images").rglob("*.png")))), "--out", case.out],
        ["doctor", "--offline", "--model", folder],
        ["calibrate", "--model", folder, "--data", shapes, "--out", case.out],
        [
            "prepare",
            "--images",
            photos,
            "--annotations",
            world.site / "marks.json",
            "--labeler",
            folder,
            "--out",
            case.out,
        ],
        ["train", world.recipe, "--model", folder, "--dry-run", "--output", case.out],
        ["relabel", folder, "--rename", "block=new", "--out", case.out],
        ["next", world.data, "--count", 2, "--run", folder, "--out", case.out],
    )


# --- datasets and runs


def dataset(case: Case) -> Words:
    rng, world = case.rng, case.world
    folder = case.folder / "data"
    source = rng.choice((world.shapes, world.data))
    shutil.copytree(source, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    documents = [path for path in files if path.suffix == ".json"]
    pictures = [path for path in files if path.suffix in (".png", ".jpg")]
    how = rng.randrange(8)
    if how < 4:
        spoil_json(rng, rng.choice(documents))
    elif how == 4:
        place = rng.choice(pictures)
        place.unlink()
        made = hostile_photo(case, place.parent, place.stem)
        if made.suffix != place.suffix:
            made.rename(place)
            case.fifos = [place if path == made else path for path in case.fifos]
    elif how == 5:
        document = rng.choice([path for path in documents if "panoptic_" in path.name])
        content = json.loads(document.read_text())
        entry = rng.choice(content[rng.choice(("images", "annotations"))])
        entry["file_name"] = rng.choice(
            (str(case.private), "../../../private.json", "", ".", "a\0b", "/dev/zero", "\ud800.png")
        )
        document.write_text(json.dumps(content))
    elif how == 6:
        rng.choice(files).unlink()
    else:
        place = rng.choice(files)
        place.unlink()
        place.symlink_to(rng.choice((case.private, Path("/dev/zero"), place, Path("nowhere"))))
    return case.pick(
        ["check", folder],
        ["split", folder, "--out", case.out],
        ["split", folder, "--fraction", 0.4],
        ["report", folder, "--out", case.out / "report.html"],
        ["evaluate", "--model", world.model, "--data", folder],
        ["train", world.recipe, "--data", folder, "--dry-run", "--output", case.out],
        ["export-review", folder, case.out / "review.zip"],
        ["import-review", folder, world.inputs / "review.zip", "--out", case.out],
        ["relabel", folder, "--rename", f"{'block' if source == world.shapes else 'pipe'}=new", "--out", case.out],
        ["next", folder, "--count", 2, *case.pick([], ["--run", world.run]), "--out", case.out],
        ["calibrate", "--model", world.model, "--data", folder, "--out", case.out],
        ["push", world.run, "anna/site", "--dry-run", "--data", folder, "anna/photos"],
    )


def run(case: Case) -> Words:
    rng, world = case.rng, case.world
    folder = case.folder / "run"
    shutil.copytree(world.run, folder)
    (folder / "results.csv").write_text("stage,epoch,step,loss\nfinetune,1,2,0.5\n")
    records = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".yaml"))
    for path in rng.sample(records, rng.choice((1, 1, 2))):
        if path.suffix == ".json" and rng.random() < 0.8:
            spoil_json(rng, path)
        elif rng.random() < 0.2:
            path.unlink()
            path.symlink_to(rng.choice((case.private, path, Path("/dev/zero"))))
        else:
            path.write_bytes(damaged(rng, path.read_bytes()))
    return case.pick(
        ["report", folder, "--data", world.inputs / "run-data", "--out", case.out / "report.html"],
        ["report", folder, "--out", case.out / "report.html"],
        ["push", folder, "anna/site", "--dry-run", "--license", "apache-2.0"],
        ["relabel", folder, "--rename", "pipe=new", "--out", case.out],
        ["next", world.data, "--count", 2, "--run", folder, "--out", case.out],
    )


# --- names


def name(case: Case) -> Words:
    """Of photos and of classes."""
    rng, world = case.rng, case.world
    photos = case.photos()
    marks = marks_of(case)
    hostile = (
        "-rf.jpg",
        "a\nb.jpg",
        "<img src=x onerror=alert(1)>.jpg",
        "'; rm -rf ~.jpg",
        " .jpg",
        "CON.jpg",
        "x" * 251 + ".jpg",
    )
    hostile += (
        "é" * 120 + ".jpg",
        "a\tb.jpg",
        "$(touch ran).jpg",
        "%s%n.jpg",
        "..jpg",
        "a.jpg.png",
        "\u202egpj.jpg",
        "🚧.jpg",
        "a:b.jpg",
        "nul\x01.jpg",
    )
    for entry in marks["images"][:3]:
        if rng.random() < 0.7:
            chosen = rng.choice(hostile)
            target = photos / chosen
            if not target.exists():
                (photos / entry["file_name"]).rename(target)
                entry["file_name"] = chosen
    if rng.random() < 0.3:
        os.rename(next(photos.iterdir()), os.path.join(os.fsencode(photos), b"\xff\xfe.jpg"))  # noqa: PTH104, PTH118
    names = (
        "<script>alert(1)</script>",
        "a|b\nc",
        "=cmd()",
        "",
        " ",
        "pipe",
        "\ud800",
        "x" * 5000,
        "__void__",
        "void",
        "🚧",
        "a/b",
        "null",
        "\0",
    )
    for category in marks["categories"]:
        if rng.random() < 0.6:
            category["name"] = rng.choice(names)
    path = case.folder / "marks.json"
    path.write_text(json.dumps(marks))
    words: Words = ["prepare", "--images", photos, "--annotations", path, "--labeler", world.labeler]
    return [*words, *case.pick(["--out", case.out], ["--out", case.out], ["--dry-run"])]


MAKERS: dict[str, tuple[int, Callable[[Case], Words]]] = {
    "photos": (5, photo),
    "masks": (2, mask),
    "JSON": (4, json_marks),
    "XML": (2, xml_marks),
    "zips": (2, zip_marks),
    "YOLO and VOC": (3, yolo_or_voc),
    "YAML": (2, yaml_file),
    "models": (3, model),
    "datasets": (4, dataset),
    "runs": (2, run),
    "names": (2, name),
}
