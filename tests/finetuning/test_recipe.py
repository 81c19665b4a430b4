"""Recipes: strict, complete, and explicit about what was published."""

from pathlib import Path

import pytest

from support.commands import invoke
from vaelens.errors import BadInputError, UsageError
from vaelens.finetuning.recipe import explain, field_names
from vaelens.finetuning.recipe_files import find_recipe, recipe_names

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", recipe_names())
def test_every_field_of_a_built_in_recipe_is_explained(name: str) -> None:
    notes = explain(find_recipe(name))
    assert [note.field for note in notes] == list(field_names())
    assert [note.field for note in notes if note.origin == "unexplained"] == []
    assert all(note.why for note in notes)


def test_the_published_numbers_are_the_published_ones() -> None:
    kl, ema, mse = (find_recipe(name) for name in ("kl-f8", "ft-ema", "ft-mse"))
    assert (kl.run.steps, kl.run.steps + ema.run.steps) == (246_803, 560_001)
    assert kl.run.steps + ema.run.steps + mse.run.steps == 840_001
    assert (kl.loss.pixel, kl.loss.perceptual, kl.loss.kl_weight) == ("l1", "lpips-vgg", 1e-6)
    assert (kl.gan.weight, kl.gan.start) == (0.5, 50_001)
    for tuned, pixel, weight in ((ema, "l1", 1.0), (mse, "mse", 0.1)):
        assert (tuned.loss.pixel, tuned.loss.perceptual_weight) == (pixel, weight)
        assert (tuned.model.trainable, tuned.data.batch_size) == ("decoder", 192)


def test_unpublished_values_are_not_called_published() -> None:
    for name in ("ft-ema", "ft-mse", "tiny-ft-ema", "tiny-ft-mse"):
        published = {note.field for note in explain(find_recipe(name)) if note.origin == "published"}
        unknown = {"optimizer.lr", "ema.decay", "gan.weight", "data.crop", "data.flip"}
        assert not published & (unknown | {"model.post_quant_conv", "model.posterior"})


def test_the_autoencoder_differs_from_the_vae_in_its_posterior_alone() -> None:
    for vae, autoencoder in (("kl-f8", "ae-f8"), ("tiny-kl-f8", "tiny-ae")):
        kl, ae = find_recipe(vae).as_dict(), find_recipe(autoencoder).as_dict()
        changed = {f"{t}.{f}" for t in kl for f in kl[t] if kl[t][f] != ae[t][f]}
        assert changed == {"model.posterior", "loss.kl_weight"}


def test_a_field_without_effect_is_called_unused() -> None:
    for name, unused in (("ft-mse", True), ("tiny-ft-mse", True), ("ft-ema", False)):
        gan = [note for note in explain(find_recipe(name)) if note.field.startswith("gan.")]
        assert [note.origin == "unused" for note in gan] == [unused and note.field != "gan.weight" for note in gan]


def test_explanations_are_not_part_of_the_hash() -> None:
    recipe = find_recipe("ft-mse")
    assert recipe.model_copy(update={"published": {}, "chosen": {}, "title": "other"}).sha256() == recipe.sha256()


def test_a_user_s_recipe_extends_another(tmp_path: Path) -> None:
    changes = 'extends = "ft-mse"\n[optimizer]\nlr = 1e-6\n[chosen]\n"optimizer.lr" = "careful"\n'
    (tmp_path / "base.toml").write_text(changes)
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\ntitle = "Mine"\n[data]\nbatch_size = 8\n')
    mine, parent = find_recipe(tmp_path / "mine.toml"), find_recipe("ft-mse")
    assert (mine.name, mine.title, mine.optimizer.lr, mine.data.batch_size) == ("mine", "Mine", 1e-6, 8)
    assert mine.loss == parent.loss
    origins = {note.field: note.origin for note in explain(mine)}
    assert (origins["optimizer.lr"], origins["data.batch_size"]) == ("our choice", "unexplained")
    assert origins["loss.pixel"] == "published"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "ft-mse"\n[loss]\npixle = "l1"\n', "loss.pixle'. Did you mean loss.pixel?"),
        ('extends = "ft-mse"\n[lose]\npixel = "l1"\n', "no 'lose'. Did you mean loss?"),
        ('extends = "ft-mse"\n[loss]\npixel = "l3"\n', "loss.pixel is 'l3': input should be 'l1', 'mse'"),
        ('extends = "ft-mse"\n[data]\nbatch_size = "8"\n', "data.batch_size is '8'"),
        ('extends = "ft-mse"\n[data]\nbatch_size = true\n', "data.batch_size is True"),
        ('extends = "ft-mse"\n[optimizer]\nlr = nan\n', "optimizer.lr is nan"),
        ('extends = "ft-mse"\n[loss]\nkl_weight = 1.0\n', "kl_weight needs a trained encoder"),
        ('extends = "ft-mse"\n[loss]\nperceptual = "none"\n', "perceptual_weight must be 0"),
        ('extends = "ft-mse"\n[data]\ncrop = [0.9, 0.5]\n', "crop must be (from, to)"),
        ('extends = "ft-mse"\n[optimizer]\ndecay_steps = 280001\n', "more than run.steps"),
        ('extends = "kl-f8"\n[gan]\nwarmup_steps = 50002\n', "gan.warmup_steps is larger than gan.start"),
        ('extends = "kl-f8"\n[model]\nspace = "sd1"\n', "trains from scratch"),
        ('extends = "ft-mse"\n[run]\npreset = "card-2023"\n', "card-2022, modern, offline"),
        ('extends = "ft-mse"\n[published]\n"loss.size" = "x"\n', "loss.size in [published] or [chosen] isn't a field"),
        ('extends = "ft-mes"\n', "Did you mean ft-mse?"),
        ('title = "t"\nabout = "a"\n', "model isn't set"),
        ('extends = "ft-mse"\n[data]\ncrop = [0.5]\n', "data.crop has too few values"),
        ('extends = "ft-mse"\n[data]\nsize = 8\n', "at least 16"),
        ('extends = "ft-mse"\n[loss]\nbox_weight = 0.0\n', "loss.box_weight is 0.0"),
        ('extends = "mine.toml"\n', "extends itself"),
        ("loss = 3\n", "loss must be a table"),
    ],
)
def test_an_invalid_recipe_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        find_recipe(file)
    assert message in str(error.value), error.value


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[loss\n")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    for name in ("a.toml", "b.toml", "missing.toml"):
        with pytest.raises(BadInputError, match=name):
            find_recipe(tmp_path / name)
    with pytest.raises(UsageError, match=r"Did you mean optimizer\.lr"):
        find_recipe("ft-mse", {"optimizer.lrr": 1.0})


def test_an_override_is_our_choice() -> None:
    changed = find_recipe("ft-mse", {"loss.perceptual_weight": 0.2})
    note = next(note for note in explain(changed) if note.field == "loss.perceptual_weight")
    assert (note.value, note.origin, note.why) == ("0.2", "our choice", "changed for this run")
    assert changed.sha256() != find_recipe("ft-mse").sha256()


def test_explain_prints_them() -> None:
    ran = invoke("finetune", "--explain", "ft-mse", "--set", "run.steps=5000")
    lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
    assert "loss.perceptual_weight 0.1 published the model card: MSE + 0.1 * LPIPS" in lines
    assert any(line.startswith("gan.weight 0.0 our choice not published; a reproduction elsewhere") for line in lines)
    assert "run.steps 5000 our choice changed for this run" in lines


@pytest.mark.parametrize("where", ["README.md", "docs/training.md", "src/vaelens/cli/finetune.py"])
def test_every_example_names_a_vae_where_its_recipe_continues_one(where: str) -> None:
    lines = [line.split("#")[0] for line in (ROOT / where).read_text("utf-8").splitlines()]
    examples = [line.split() for line in lines if "vaelens finetune" in line and "--recipe" in line]
    assert examples
    for words in examples:
        recipe = find_recipe(words[words.index("--recipe") + 1])
        assert ("--from" in words) == (recipe.model.config == ""), words
