"""Every file in configs/ runs: the command in its first comment lines, shortened by flags, leaves real results."""

from __future__ import annotations

import csv
import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

import ocl.cli
import rl_probes.cli
from ocl import checkpoints
from ocl.bfloat16 import tensor_of
from ocl.binding.probes import Quadratic
from ocl.binding.saved import save_probe
from ocl.data.scenes import Scenes
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.stored import StoredScenes
from ocl.files import read_json
from ocl.generate import generate
from ocl.instantiate import instantiate
from ocl.masks.coco import CocoFile
from ocl.representations import ObjectEncoder
from ocl.store import FeatureStore
from rl_probes.recording import Recording
from rl_probes.reward_benchmark.stored import load
from rl_probes.rewards.checkpoint import save_head
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.runs import build
from tests import small_sets

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PRETRAININGS = sorted((ROOT / "configs" / "representations").rglob("*.yaml"))
PROGRAMS = {"ocl": ocl.cli.main, "rl-probes": rl_probes.cli.main}
STEPS, SCENES, BIRDS = 2, 48, 12
NEEDED = {  # what a config names -> the module that its extra brings
    "rl_probes.envs.fetch.FetchWorld": ("gymnasium_robotics", "robots"),
    "id: CartPole-v1": ("pygame", "classic-control"),
    "ocl.data.coco_instances.COCOInstances": ("pycocotools", "coco"),
}


def command_of(path: Path) -> list[str]:
    """The words of the line `# ocl ... --config configs/...` or `# rl-probes ...` at the top of a config."""
    for line in path.read_text().splitlines():
        words = line.removeprefix("#").split()
        if not line.startswith("#"):
            break
        if words and words[0] in PROGRAMS and path.relative_to(ROOT).as_posix() in words:
            return words
    raise AssertionError(f"{path} must begin with a comment that holds its command, such as # ocl fit --config {path}")


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def configs_of(words: list[str]) -> list[Path]:
    return [ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"]


def named(class_path: str) -> Any:
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def is_drawn(node: dict[str, Any]) -> bool:
    return isinstance(cls := named(node["class_path"]), type) and issubclass(cls, Scenes)


def fewer(option: str, node: dict[str, Any], count: int = SCENES) -> list[str]:
    """Fewer items of a drawn data set; those on disk are small here anyway (and `size` there means pixels)."""
    if is_drawn(node):
        return [f"--{option}.init_args.size={count}"]
    inner = (node.get("init_args") or {}).get("dataset")
    return fewer(f"{option}.init_args.dataset", inner, count) if isinstance(inner, dict) else []


def built(node: dict[str, Any]) -> Any:
    """The data set that `fewer` leaves of a node."""
    arguments = dict(node["init_args"])
    if is_drawn(node):
        arguments["size"] = SCENES
    if isinstance(inner := arguments.get("dataset"), dict):
        arguments["dataset"] = built(inner)
    return named(node["class_path"])(**arguments)


def untrained(content: Any, prefix: str = "--model.model") -> list[str]:
    """`pretrained: false` wherever a config fetches weights, and few blocks for large images or where all of them
    would be trained."""
    if not isinstance(content, dict):
        return []
    found = [f"{prefix}.pretrained=false"] if content.get("pretrained") else []
    slow = content.get("first_block") == 0 or (found and max(content["image_size"]) > 224)
    found += [f'{prefix}.arguments={{"depth": 2}}'] if slow else []
    return found + [flag for name, value in content.items() for flag in untrained(value, f"{prefix}.{name}")]


def of_one_vit(unfetched: list[str]) -> list[str]:
    """The weights of one small file in the place of those that are fetched."""
    if not Path("vit.pth").is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            torch.save(timm.create_model("vit_small_patch16_224.dino", num_classes=0).state_dict(), "vit.pth")
    return [flag.replace("pretrained=false", "weights=vit.pth") for flag in unfetched if "pretrained" in flag]


def with_random_sam(content: Any) -> Any:
    """The same parts, small random weights in the place of SAM's checkpoint, and thresholds that ragged masks pass."""
    if not isinstance(content, dict):
        return content
    if content.get("class_path") == "ocl.masks.sam.load_sam":
        sizes = {"image_size": 128, "width": 32, "depth": 2, "heads": 2, "global_layers": [1], "window": 6}
        return {"class_path": "ocl.masks.sam.random_sam", "init_args": sizes}
    changed = {name: with_random_sam(value) for name, value in content.items()}
    if content.get("class_path") == "ocl.masks.sam.AutomaticMaskGenerator":
        changed["init_args"] |= {"points_per_side": 4, "stability_score_thresh": 0.1}
    return changed


def shorten_fit(content: dict[str, Any]) -> list[str]:
    flags = [f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={STEPS}", "--trainer.limit_val_batches=2"]
    flags += ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--pictures=1"]
    unfetched = untrained(content["model"].get("model"))
    flags += ["--data.batch_size=2", "--data.num_workers=0", *unfetched]
    if content["data"]["val"]["class_path"].endswith("MOVi"):
        flags.append("--data.val.init_args.frames=4")  # those of small_sets are no longer
    if folders := tokens_read(content["data"]):  # of the very ViT that is trained on
        flags += of_one_vit(unfetched)
        for folder in folders:
            (path,) = (path for path in CONFIGS if read(path).get("folder") == folder.as_posix())
            short = shorten_extract(read(path))
            PROGRAMS["ocl"](["extract", "--config", str(path), *short, *of_one_vit(short)])
    if not torch.cuda.is_available():
        flags += ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    return flags


def shorten_generate(content: dict[str, Any]) -> list[str]:
    return [*fewer("dataset", content["dataset"]), "--shard_size=20", "--num_workers=0"]


def shorten_extract(content: dict[str, Any]) -> list[str]:
    flags = [*fewer("dataset", content["dataset"]), "--shard_size=20", "--batch_size=8", "--num_workers=0"]
    return flags + untrained(content["encoder"], "--encoder")


def shorten_probe(content: dict[str, Any]) -> list[str]:
    return (
        fewer("train", content["train"]) + fewer("test", content["test"]) + untrained(content["encoder"], "--encoder")
    )


def shorten_discover(content: dict[str, Any]) -> list[str]:
    flags = [*fewer("dataset", content["dataset"]), "--batch_size=8"]
    if "sources" in content:
        flags.append(f"--sources={json.dumps(with_random_sam(content['sources']))}")
    return flags


def shorten_benchmark(content: dict[str, Any]) -> list[str]:
    Path("configs").symlink_to(ROOT / "configs")  # the arms name files there
    fits = [shorten_fit(read(ROOT / arm["config"])) for arm in content["arms"]]
    assert all(fit == fits[0] for fit in fits), "the arms of one benchmark are shortened alike"
    return [f"--arguments={json.dumps(fits[0])}", "--seeds=[0]", "--images=4", "--processes=2"]


def shorten_masks(content: dict[str, Any]) -> list[str]:
    flags = fewer("images", content["images"]) if isinstance(content["images"], dict) else []
    source = with_random_sam(content["source"])
    return flags if isinstance(source, str) else [*flags, f"--source={json.dumps(source)}"]


def shorten_occam(content: dict[str, Any]) -> list[str]:
    flags = [*fewer("dataset", content["dataset"]), "--seeds=[0]"]
    if "recipe" not in content["ensemble"]["init_args"]:  # nothing is trained
        return [*flags, "--dataset.init_args.size=96"]
    recipe = [f"--ensemble.init_args.recipe.{name}" for name in ("steps=4", "batch_size=8", "warmup_steps=1")]
    return [*flags, *recipe, "--ensemble.init_args.members=2"]


def shorten_binding(content: dict[str, Any]) -> list[str]:
    sizes = [*fewer("train", content["train"]), *fewer("test", content["test"])]
    if "identical" in content:
        sizes += fewer("identical", content["identical"], 4)
    return [*sizes, "--fitting.epochs=1", "--fitting.held_out=0.5", "--pictures=1", "--attention=2"]


def shorten_ppo(content: dict[str, Any]) -> list[str]:
    given = (content.get("reward") or {}).get("init_args", {})
    for arguments in (given, *(part["init_args"] for part in given.get("designed", []))):
        if head := arguments.get("head"):
            unfitted_head(Path(head), instantiate(content["encoder"]))
    inner = ".world.init_args" * ("world" in content["world"]["init_args"])
    flags = [f"--world.init_args{inner}.num_envs=8", "--ppo.n_steps=16", "--ppo.batch_size=64", "--total_steps=256"]
    slow = content["world"]["class_path"].endswith("FetchWorld")  # 2048 frames of random play would take a minute
    return [*flags, "--standardise=false"] if slow else flags


def unfitted_head(folder: Path, encoder: ObjectEncoder) -> None:
    """A progress head that says whatever, in the place of one fitted on the encoder's slots."""
    head = DeepSetProgress(encoder.dim)
    head.encoder_fingerprint = encoder.fingerprint
    save_head(head, folder)


def trained_agent(run: str) -> None:
    """The run of the config that makes it, shortened."""
    (path,) = (path for path in CONFIGS if read(path).get("folder") == run)
    PROGRAMS["rl-probes"](["ppo", "--config", str(path), *shorten_ppo(read(path))])


def runs_of_agents(players: list[dict[str, Any]]) -> list[str]:
    return [player["init_args"]["run"] for player in players if "run" in player.get("init_args", {})]


def shorten_evaluate(content: dict[str, Any]) -> list[str]:
    for run in content["runs"]:
        trained_agent(run)
    return ["--episodes=4"]


def shorten_grid(content: dict[str, Any]) -> list[str]:
    """Rows are all built; where some read what other configs make, one of those alone is played, on one task: every
    cell is a process of its own, which imports for seconds."""
    rows = content["representations"]
    for one in rows:
        one.get("ppo", {}).update(n_steps=8, batch_size=64)
        for encoder in one["encoders"]:
            build({"encoder": encoder, "pooling": one["pooling"]})
    reading = [one for one in rows if checkpoints_read(one) | weights_read(one)]
    if reading:
        content |= {"representations": reading[-1:], "ceiling": reading[-1]["name"]}
        reading[-1]["standardise"] = False  # by the 2048 frames that this takes elsewhere
        del content["tasks"][1:]
    flags = [f"--{name}={json.dumps(content[name])}" for name in ("tasks", "representations")]
    flags += [f"--ceiling={content['ceiling']}"]
    return [*flags, "--ppo.n_steps=8", "--ppo.batch_size=64", "--total_steps=256", "--seeds=[0]", "--episodes=8"]


def shorten_collect(content: dict[str, Any]) -> list[str]:
    for run in runs_of_agents(content.get("players", [])):
        trained_agent(run)
    return ["--world.init_args.num_envs=8", "--length=10", f"--frames={SCENES}"]


def shorten_reward_generate(content: dict[str, Any]) -> list[str]:
    return ["--train_starts=42", "--test_starts=2"]


def shorten_reward_benchmark(content: dict[str, Any]) -> list[str]:
    (path,) = (path for path in CONFIGS if read(path).get("folder") == content["episodes"])
    task = json.dumps(content["tasks"][:1])
    PROGRAMS["rl-probes"](
        ["reward", "generate", "--config", str(path), *shorten_reward_generate({}), f"--tasks={task}"]
    )
    return [f"--tasks={task}", "--seeds=[0]", "--resamples=10"]


def check_fit(content: dict[str, Any]) -> None:
    folder = Path(content["trainer"]["default_root_dir"])
    rows = list(csv.DictReader((folder / "logs" / "version_0" / "metrics.csv").open()))
    trained = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(trained) == STEPS
    assert all(map(math.isfinite, trained))
    validated = [row for row in rows if row["val/loss"]]
    assert len(validated) == 1
    assert math.isfinite(float(validated[0]["val/loss"]))
    if "objective" in content["model"]:  # no slots, so no masks
        if "vit" in content["model"]["objective"]["init_args"]:
            assert (folder / "vit.safetensors").is_file()
            assert checkpoints.load_encoder(folder / "pooled").num_slots == 1
    elif not images_read(content):  # frames that were collected have no segmentation
        assert -1 <= float(validated[0]["val/foreground_ari"]) <= 1
    assert read_json(folder / "model" / "manifest.json")["step"] == STEPS
    checkpoints.load_encoder(folder / "model")
    assert list((folder / "pictures").glob("*.png"))


def check_generate(content: dict[str, Any]) -> None:
    stored, drawn = StoredScenes(content["folder"]), built(content["dataset"])
    assert len(stored) == len(drawn) >= SCENES
    assert all(torch.equal(value, stored[-1][name]) for name, value in drawn[len(drawn) - 1].items())


def check_extract(content: dict[str, Any]) -> None:
    store = FeatureStore(content["folder"])
    records = store.read(range(len(store)))
    assert len(store) == len(built(content["dataset"]))
    assert ("masks" in records) == content["masks"]
    assert set(content.get("labels") or []) <= set(records)
    vectors = tensor_of(records["vectors"])
    assert vectors.dtype == getattr(torch, content["dtype"])
    assert vectors.isfinite().all()
    assert vectors.float().std() > 0


def check_probe(content: dict[str, Any]) -> None:
    report = read_json(Path(content["folder"]) / "report.json")
    assert (report["train_images"], report["test_images"]) == (SCENES, SCENES)
    assert {row["probe"] for row in report["rows"]} == {"linear", "mlp"}
    assert all(math.isfinite(row["value"]) for row in report["rows"])


def check_discover(content: dict[str, Any]) -> None:
    rows = read_json(Path(content["folder"]) / "results.json")
    given = {"slots"} if "encoder" in content else {*content["sources"], *content["recorded"]}
    assert {row["name"] for row in rows} > given, "there are no baselines"
    best = {row["name"]: row["value"] for row in rows if row["measure"] == "mean_best_overlap"}
    assert all(0 < value <= 1 for value in best.values())


def check_benchmark(content: dict[str, Any]) -> None:
    rows = read_json(Path(content["folder"]) / "results.json")
    assert {(row["name"], row["set"]) for row in rows} == {(arm["name"], arm["set"]) for arm in content["arms"]}
    assert all(row["step"] == STEPS for row in rows)
    assert all(-1 <= row["value"] <= 1 for row in rows if row["measure"] == "foreground_ari")


def check_masks(content: dict[str, Any]) -> None:
    rows = read_json(Path(content["folder"]) / "results.json")
    assert len(rows) == (SCENES if isinstance(content["images"], dict) else 2)
    assert all(row["error"] is None and row["masks"] > 0 for row in rows)
    assert len(CocoFile(Path(content["folder"]) / "coco.json").names) == len(rows)


def check_occam(content: dict[str, Any]) -> None:
    folder = Path(content["folder"])
    rows = read_json(folder / "results.json")
    assert list(dict.fromkeys(row["source"] for row in rows)) == list(content["sources"])
    accuracies = [row for row in rows if row["measure"] == "accuracy"]
    images = SCENES if fewer("dataset", content["dataset"]) else BIRDS
    assert all(row["images"] == images and 0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in accuracies)
    assert (folder / "seed-0" / "selected.png").is_file()


def check_binding(content: dict[str, Any]) -> None:
    folder = Path(content["folder"])
    rows = read_json(folder / "results.json")
    models = [*content["models"], f"random ({', '.join(content['models'])})"]
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["-", *models]
    controls = {"all different", "position", "colour", "position + colour"}
    controls |= {"class oracle"} if content["sampling"].get("classes") else set()
    controls |= {"another person"} if "others" in content else set()
    controls |= {"nearness"} if content.get("attention") else set()
    assert {row["probe"] for row in rows if row["model"] == "-"} == controls
    shares = [row["value"] for row in rows if row["measure"] != "correlation" and not math.isnan(row["value"])]
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in shares)
    assert ("next attention" in {row["probe"] for row in rows}) == bool(content.get("next_attention"))
    assert ("identical objects" in {row["probe"] for row in rows}) == ("identical" in content)
    assert (folder / "curves.png").is_file()
    assert len(list((folder / "maps").glob("*.png"))) == len(models)
    changes = read_json(folder / "ablation.json")
    assert {row["model"] for row in changes} == set(content["models"])


def check_ppo(content: dict[str, Any]) -> None:
    folder = Path(content["folder"])
    rows = list(csv.DictReader((folder / "progress.csv").open()))
    assert len(rows) == 2
    assert all(math.isfinite(float(value)) for name, value in rows[-1].items() if "loss" in name)
    assert (folder / "agent.safetensors").is_file()


def check_evaluate(content: dict[str, Any]) -> None:
    name = "evaluation_" + content["split"].replace(" ", "_")
    for run in content["runs"]:
        saved = read_json(Path(run) / f"{name}.json")
        assert len(saved["returns"]) == 4
        trained = read_json(Path(run) / "manifest.json")["config"]["world"]
        assert saved["world"] != trained, "in another world than in training"


def check_grid(content: dict[str, Any]) -> None:
    folder = Path(content["folder"])
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for task in content["tasks"]:
        for split in ("held-out seeds", *task["held_out"]):
            found = {row["representation"]: row for row in rows if (row["task"], row["split"]) == (task["name"], split)}
            assert list(found) == ["random policy", *(one["name"] for one in content["representations"])]
            for one in content["representations"]:
                assert found[one["name"]]["encoder_seeds"] == str(len(one["encoders"]))
                assert 0 <= float(found[one["name"]]["iqm"]) <= 1 or task["by_return"]
    assert (folder / "report.html").is_file()


def check_collect(content: dict[str, Any]) -> None:
    recording = Recording.load(content["folder"])
    assert len(recording.vectors) == 80  # whole shards of 8 streams of 10 frames
    assert set(content.get("fields", [])) - {"objects"} <= set(FeatureStore(content["folder"]).fields)
    assert np.isfinite(recording.vectors).all()
    if "images" in content.get("fields", []):
        assert StoredScenes(content["folder"], fields=["images"])[0]["images"].float().std() > 0


def check_reward_generate(content: dict[str, Any]) -> None:
    for task in content["tasks"]:
        frames = load(content["folder"], task).frames
        assert 0 < frames["success"].sum() < len(np.unique(frames["episode"])), "good and bad episodes"


def check_reward_benchmark(content: dict[str, Any]) -> None:
    rows = read_json(Path(content["folder"]) / "results.json")
    asked = {(encoder, name) for encoder in content["encoders"] for name in content["predictors"]}
    assert asked <= {(row["encoder"], row["predictor"]) for row in rows}
    perfect = [row["value"] for row in rows if (row["predictor"], row["measure"]) == ("oracle", "epic")]
    assert max(perfect) < 1e-6
    assert "data:image/png" in (Path(content["folder"]) / "report.html").read_text()


COMMANDS = {
    ("ocl", "fit"): (shorten_fit, check_fit),
    ("ocl", "generate"): (shorten_generate, check_generate),
    ("ocl", "extract"): (shorten_extract, check_extract),
    ("ocl", "probe"): (shorten_probe, check_probe),
    ("ocl", "discover"): (shorten_discover, check_discover),
    ("ocl", "benchmark"): (shorten_benchmark, check_benchmark),
    ("ocl", "masks"): (shorten_masks, check_masks),
    ("ocl", "occam"): (shorten_occam, check_occam),
    ("ocl", "binding"): (shorten_binding, check_binding),
    ("rl-probes", "ppo"): (shorten_ppo, check_ppo),
    ("rl-probes", "evaluate"): (shorten_evaluate, check_evaluate),
    ("rl-probes", "benchmark"): (shorten_grid, check_grid),
    ("rl-probes", "collect"): (shorten_collect, check_collect),
    ("rl-probes", "reward", "generate"): (shorten_reward_generate, check_reward_generate),
    ("rl-probes", "reward", "benchmark"): (shorten_reward_benchmark, check_reward_benchmark),
}


def photographs(folder: Path) -> None:
    """BSDS500 in small: the same layout, noise with four people's segmentations."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "groundTruth" / split).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.jpg")
            people = np.empty((1, 4), dtype=object)
            for person, segments in enumerate((4, 5, 6, 10)):
                labels = np.repeat(np.arange(1, segments + 1, dtype=np.uint16), 60 // segments)
                people[0, person] = {"Segmentation": np.tile(labels, (40, 1))}
            savemat(folder / "groundTruth" / split / f"{index}.mat", {"groundTruth": people})


def birds(folder: Path) -> None:
    """Waterbirds in small: the same layout, noise under the names of four species, BIRDS of them for testing."""
    species = ("001.Black_footed_Albatross", "118.House_Sparrow", "021.Eastern_Towhee", "127.Savannah_Sparrow")
    generator = np.random.default_rng(0)
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(2 * BIRDS):
        name = f"{species[number % 4]}/Bird_{number:04d}.jpg"
        lines.append(
            f"{number + 1},{name},{(number + 1) % 2},{0 if number < BIRDS else 2},{number // 4 % 2},/o/ocean/1.jpg"
        )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    (folder / "metadata.csv").write_text("\n".join(lines))


def clip_models(content: Any) -> set[Path]:
    """The folders of CLIP models that a config reads."""
    if isinstance(content, list):
        return set().union(*map(clip_models, content))
    if not isinstance(content, dict):
        return set()
    name = str(content.get("name", ""))
    return set().union({Path(name[10:])} if name.startswith("local-dir:") else (), *map(clip_models, content.values()))


def untrained_clip(folder: Path) -> None:
    """A small CLIP with random weights, in the files of a large one."""
    vision = {"image_size": 224, "layers": 1, "width": 16, "head_width": 8, "patch_size": 56}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    sizes = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")


def checkpoints_read(content: Any) -> set[Path]:
    """The checkpoint folders that a config reads, all of them below runs/."""
    if isinstance(content, list):
        return set().union(*map(checkpoints_read, content))
    if not isinstance(content, dict):
        return set()
    encoder, folder = content.get("encoder"), (content.get("init_args") or {}).get("folder", "")
    loads = content.get("class_path") in ("ocl.load", "ocl.checkpoints.load_encoder")
    named = [path for path in (encoder, folder if loads else "") if isinstance(path, str) and path.startswith("runs/")]
    return set(map(Path, named)).union(*map(checkpoints_read, content.values()))


def models_continued(content: Any) -> set[Path]:
    """The checkpoint folders of models that a training starts from or learns from, but for those in the package: no
    other model will do."""
    if not isinstance(content, dict):
        return set()
    teacher = content["init_args"]["folder"] if content.get("class_path") == "ocl.checkpoints.load" else None
    named = {
        Path(path) for path in (content.get("start_from"), teacher) if path and not (ocl.PRETRAINED / path).is_dir()
    }
    return named.union(*map(models_continued, content.values()))


def images_read(content: Any) -> set[Path]:
    """The folders of stored images that a config reads."""
    if isinstance(content, list):
        return set().union(*map(images_read, content))
    if not isinstance(content, dict):
        return set()
    if content.get("class_path") == "ocl.data.stored.StoredScenes":
        return {Path(content["init_args"]["folder"])}
    return set().union(*map(images_read, content.values()))


def tokens_read(content: Any) -> set[Path]:
    """The folders of stored tokens that a config reads."""
    if not isinstance(content, dict):
        return set()
    if content.get("class_path") == "ocl.data.stored_tokens.StoredTokens":
        return {Path(content["init_args"]["folder"])}
    return set().union(*map(tokens_read, content.values()))


def stand_in_for_images(folder: Path) -> None:
    """What the config of `ocl generate` that makes them draws, shortened; sprites for what is collected from play."""
    makers = [path for path in CONFIGS if "generate" in path.parts and read(path).get("folder") == folder.as_posix()]
    for path in makers:
        PROGRAMS["ocl"](["generate", "--config", str(path), *shorten_generate(read(path))])
    if not makers:
        generate(SpriteScenes(SCENES), folder, progress=False)


def runs_read(content: dict[str, Any]) -> set[Path]:
    """The folders of trained ViTs that a config reads."""
    models = content["models"].values() if isinstance(content.get("models"), dict) else ()
    return {Path(model["init_args"]["run"]) for model in models if "run" in model.get("init_args", {})}


def weights_read(content: Any) -> set[Path]:
    """The files of weights below runs/ that a config reads."""
    if isinstance(content, list):
        return set().union(*map(weights_read, content))
    if not isinstance(content, dict):
        return set()
    own = {Path(content["weights"])} if str(content.get("weights")).startswith("runs/") else set()
    return own.union(*map(weights_read, content.values()))


def stand_in_for(weights: Path) -> None:
    """The weights of a ViT that is hardly trained, or probes of its six blocks that answer whatever."""
    if weights.name == "vit.safetensors":
        if not weights.is_file():
            hardly_trained(weights.parent)
        return
    probe = Quadratic(96, layers=6)
    torch.nn.init.normal_(probe.weight)
    save_probe(probe, weights)


def hardly_trained(run: Path) -> None:
    """The run of the config that makes it, shortened."""
    (path,) = (path for path in CONFIGS if read(path).get("trainer", {}).get("default_root_dir") == run.as_posix())
    content = read(path)
    for folder in images_read(content):
        if not folder.is_dir():
            stand_in_for_images(folder)
    PROGRAMS["ocl"](["fit", "--config", str(path), *shorten_fit(content), "--pictures=0"])


def untrained_checkpoint(folder: Path) -> None:
    """A small slot model in the place of one that takes hours to train, for images of the same size and with as many
    slots as wide; of a pretraining, its own run."""
    made_by = [read(path) for path in CONFIGS]
    (config,) = (one for one in made_by if one.get("trainer", {}).get("default_root_dir") == folder.parent.as_posix())
    if "objective" in config["model"]:
        if not folder.is_dir():
            hardly_trained(folder.parent)
        return
    parts = config["model"]["model"]["init_args"]
    image_size, slots = parts["encoder"]["init_args"]["image_size"], parts["initial_slots"]["init_args"]
    num_slots, dim = slots["num_slots"], slots["dim"]

    def node(path: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": path, "init_args": arguments}

    tree = node(
        "ocl.model.ObjectCentricModel",
        encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=image_size, dim=dim, channels=8, strides=[2, 2]),
        initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=num_slots, dim=dim),
        grouping=node("ocl.slots.attention.SlotAttention", dim=dim, hidden_dim=16),
        decoder=node("ocl.decoders.broadcast.BroadcastDecoder", dim=dim, grid=[8, 8], channels=8, strides=[2, 2]),
    )
    checkpoints.save(tree, checkpoints.instantiate(tree), folder)


def contains(whole: Any, part: Any) -> bool:
    """Whether every entry of `part` is in `whole`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and contains(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, for the relative paths in configs, with small photographs in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    photographs(tmp_path / "datasets" / "bsds500" / "data")
    published = {name: tmp_path / "datasets" / name / "data" for name in ("coco", "pascal_voc", "movi")}
    small_sets.coco(published["coco"])
    voc = published["pascal_voc"]
    small_sets.voc(voc / "VOCdevkit" / "VOC2012", voc / "benchmark_RELEASE" / "dataset")
    for name in ("movi_c", "movi_e"):
        small_sets.movi(published["movi"] / name / "128x128" / "1.0.0", name)
    birds(tmp_path / "datasets" / "waterbirds" / "data" / "waterbird_complete95_forest2water2")
    return tmp_path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_a_config_runs(path: Path, elsewhere: Path) -> None:
    for text, (module, extra) in NEEDED.items():
        if text in path.read_text():
            pytest.importorskip(module, reason=f'needs the extra: pip install "ocl-research[{extra}]"')
    words = command_of(path)
    command = tuple(words[: words.index("--config")])
    assert command in COMMANDS, f"say here how to shorten and check `{' '.join(command)}`"
    shorten, check = COMMANDS[command]
    content = read(configs_of(words)[0])
    for folder in checkpoints_read(content):
        untrained_checkpoint(folder)
    for folder in models_continued(content):
        hardly_trained(folder.parent)
    for folder in runs_read(content):
        hardly_trained(folder)
    for file in weights_read(content):
        stand_in_for(file)
    for folder in clip_models(content):
        untrained_clip(folder)
    for folder in images_read(content):
        stand_in_for_images(folder)
    absolute = [str(ROOT / word) if word.startswith("configs/") else word for word in words[1:]]
    flags = shorten(content)
    PROGRAMS[words[0]](absolute + flags)
    check(content)
    if "parts" in path.parts:
        overridden = {flag.split("=")[0].removeprefix("--trainer.") for flag in flags}
        part = {name: value for name, value in read(path)["trainer"].items() if name not in overridden}
        assert contains(read(Path(content["trainer"]["default_root_dir"]) / "config.yaml")["trainer"], part)


def test_parts_hold_hardware_and_logging_only() -> None:
    parts = sorted((ROOT / "configs" / "parts").glob("*.yaml"))
    assert parts
    assert all(set(read(path)) == {"trainer"} for path in parts)


def test_what_a_config_reads_another_one_makes() -> None:
    contents = {path: read(path) for path in CONFIGS}
    made = {
        Path(content["trainer"]["default_root_dir"]) / "model" for content in contents.values() if "model" in content
    }
    made |= {Path(read(path)["trainer"]["default_root_dir"]) / "pooled" for path in PRETRAININGS}
    made |= {Path(content["folder"]) for content in contents.values() if "folder" in content}
    for path in CONFIGS:  # a second command in the comments may make a second folder
        words = path.read_text().split()
        made |= {Path(words[i + 1]) for i, word in enumerate(words) if word == "--folder"}
    for path, content in contents.items():
        missing = {*checkpoints_read(content), *models_continued(content), *images_read(content)} - made
        missing |= set(map(Path, runs_of_agents(content.get("players", [])))) - made
        missing |= {run for run in runs_read(content) if run / "model" not in made}
        missing |= {file for file in weights_read(content) if not made & {file.parent / "model", *file.parents}}
        missing |= set(map(Path, content.get("runs", []))) - made
        assert not missing, f"{path} reads {missing}, which no config here makes"


def test_no_two_configs_share_a_folder() -> None:
    contents = [read(path) for path in CONFIGS if "parts" not in path.parts]
    contents = [content for content in contents if "runs" not in content]  # these write into those of others
    folders = [content.get("folder") or content["trainer"]["default_root_dir"] for content in contents]
    assert len(set(folders)) == len(folders)


def test_the_index_names_every_config() -> None:
    index = (ROOT / "configs" / "README.md").read_text()
    missing = [path for path in CONFIGS if f"]({path.relative_to(ROOT / 'configs').as_posix()})" not in index]
    assert not missing
