"""Recipes: strict, complete, and explicit about what was published."""

from pathlib import Path

import pytest

from support.commands import invoke
from vaelens.errors import BadInputError, UsageError
from vaelens.finetuning.recipe import Recipe, explain, field_names
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
        ('extends = "ft-mse"\n[loss]\npixel = "l3"\n', "field 'loss.pixel': expected 'l1', 'mse'"),
        (
            'extends = "ft-mse"\n[data]\nbatch_size = "8"\n',
            "field 'data.batch_size': expected a whole number (found '8')",
        ),
        (
            'extends = "ft-mse"\n[data]\nbatch_size = true\n',
            "field 'data.batch_size': expected a whole number (found true)",
        ),
        ('extends = "ft-mse"\n[optimizer]\nlr = nan\n', "field 'optimizer.lr': expected"),
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
        (
            'extends = "ft-mse"\n[loss]\nbox_weight = 0.0\n',
            "field 'loss.box_weight': expected more than 0.0 (found 0.0)",
        ),
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


@pytest.mark.parametrize("where", ["README.md", "docs/training.md", "src/vaelens/cli/commands/finetune.py"])
def test_every_example_names_a_vae_where_its_recipe_continues_one(where: str) -> None:
    lines = [line.split("#")[0] for line in (ROOT / where).read_text("utf-8").splitlines()]
    examples = [line.split() for line in lines if "vaelens finetune" in line and "--recipe" in line]
    assert examples
    for words in examples:
        recipe = find_recipe(words[words.index("--recipe") + 1])
        assert ("--from" in words) == (recipe.model.config == ""), words


def schedule(recipe: Recipe) -> tuple[int, ...]:
    o, g, r = recipe.optimizer, recipe.gan, recipe.run
    return o.warmup_steps, o.decay_steps, g.warmup_steps, g.start, r.evaluate_every, r.log_every


@pytest.mark.parametrize("name", recipe_names())
def test_the_schedule_of_every_recipe_fits_a_run_of_any_length(name: str) -> None:
    usual = find_recipe(name)
    for steps in (1, 2, 3, 4, 5, 7, 10, 40, 100, 999, usual.run.steps - 1):
        short = find_recipe(name, {"run.steps": steps})
        warmup, decay, gan_warmup, gan_start, evaluate_every, log_every = schedule(short)
        assert warmup + decay <= steps
        assert max(evaluate_every, log_every) <= steps
        assert all(a <= b for a, b in zip(schedule(short), schedule(usual), strict=True)), "never more than published"
        assert usual.gan.weight == 0 or (gan_warmup <= gan_start < steps and not short.gan_never_starts)
        notes = {note.field: note for note in explain(short)}
        for field, value in short.followed.items():
            assert notes[field].why == f"follows the length of the run; {value} in the recipe"
            assert notes[field].origin in ("our choice", "unused")
    for steps in (usual.run.steps, 10 * usual.run.steps):
        longer = find_recipe(name, {"run.steps": steps})
        assert (schedule(longer), longer.followed) == (schedule(usual), {})


def test_the_share_of_a_warmup_and_a_cooldown_stays() -> None:
    short = find_recipe("tiny-ft-ema", {"run.steps": 60})  # of 600
    assert schedule(short) == (10, 20, 20, 20, 15, 6)
    assert short.followed == {
        "optimizer.warmup_steps": 100, "optimizer.decay_steps": 200, "gan.start": 200, "gan.warmup_steps": 200,
        "run.evaluate_every": 150, "run.log_every": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"optimizer.warmup_steps": 35}, {"optimizer.warmup_steps": 35, "optimizer.decay_steps": 5}),
        ({"optimizer.decay_steps": 38}, {"optimizer.warmup_steps": 2, "optimizer.decay_steps": 38}),
        ({"gan.start": 3}, {"gan.start": 3, "gan.warmup_steps": 3}),
        ({"gan.warmup_steps": 20}, {"gan.start": 20, "gan.warmup_steps": 20}),
        ({"run.evaluate_every": 40, "run.log_every": 7}, {"run.evaluate_every": 40, "run.log_every": 7}),
        ({"gan.start": 50, "gan.warmup_steps": 0}, {"gan.start": 50, "gan.warmup_steps": 0}),
    ],
)
def test_what_is_named_holds_and_the_rest_makes_room(
    named: dict[str, int], expected: dict[str, int], tmp_path: Path
) -> None:
    """Named for the run, or in a file of one's own."""
    tables: dict[str, dict[str, int]] = {"run": {"steps": 40}}
    for name, value in named.items():
        tables.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = value
    text = "".join(
        f"[{table}]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())
        for table, fields in tables.items()
    )
    (tmp_path / "mine.toml").write_text(f'extends = "tiny-ft-ema"\n{text}')
    for recipe in (find_recipe("tiny-ft-ema", {"run.steps": 40} | named), find_recipe(tmp_path / "mine.toml")):
        found = recipe.as_dict()
        for name, value in expected.items():
            assert found[name.partition(".")[0]][name.partition(".")[2]] == value, name
    if "optimizer.warmup_steps" in named:
        assert find_recipe("tiny-ft-ema", named).optimizer.decay_steps == 200, "there is room"
        assert find_recipe("tiny-ft-ema", {"optimizer.warmup_steps": 500}).optimizer.decay_steps == 100


def test_a_named_schedule_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"warmup_steps \(100\) and decay_steps \(0\) add up to more than run.steps \(40\)"
    ):
        find_recipe("tiny-ft-ema", {"run.steps": 40, "optimizer.warmup_steps": 100})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("run.updates", "run.steps"), ("steps", "run.steps"), ("max_train_steps", "run.steps"),
        ("optimizer.rate", "optimizer.lr"), ("learning_rate", "optimizer.lr"),
        ("optimizer.warm_up", "optimizer.warmup_steps"),
        ("optimizer.cool_down", "optimizer.decay_steps"), ("data.batch", "data.batch_size"),
        ("data.jitter", "data.color_jitter"), ("optimizer.clip", "optimizer.max_grad_norm"),
        ("gan.disc_start", "gan.start"), ("run.validation", "run.held_out"), ("gan.warmup", "gan.warmup_steps"),
        ("gan.lr_warmup_steps", "gan.warmup_steps"), ("optimizer.warmup", "optimizer.warmup_steps"),
        ("perceptual.weight", "loss.perceptual_weight"), ("kl.weight", "loss.kl_weight"),
        ("batch.size", "data.batch_size"), ("grad.clip", "optimizer.max_grad_norm"), ("lose.pixel", "loss.pixel"),
        ("loss.weight", "loss.pixel_weight, loss.perceptual_weight, loss.kl_weight or loss.box_weight"),
        ("optimizer.decay", "optimizer.weight_decay or optimizer.decay_steps"), ("lr", "gan.lr or optimizer.lr"),
    ],
)  # fmt: skip
def test_a_foreign_or_incomplete_name_of_a_field_leads_to_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        find_recipe("ft-mse", {name: 1})
    assert str(error.value) == f"a recipe has no field {name!r}. Did you mean {meant}?"


@pytest.mark.parametrize(
    ("name", "elsewhere"),
    [
        ("gan.decay", "ema.decay"),
        ("ema.steps", "run.steps"),
        ("run.batch_size", "data.batch_size"),
        ("data.nosuch", ""),
    ],
)
def test_a_name_that_is_close_to_no_field_of_its_table_lists_the_table(name: str, elsewhere: str) -> None:
    own = [key for key in field_names() if key.split(".")[0] == name.split(".", maxsplit=1)[0]]
    with pytest.raises(UsageError) as error:
        find_recipe("ft-mse", {name: 1})
    other = f" In another table: {elsewhere}." if elsewhere else ""
    assert str(error.value) == f"a recipe has no field {name!r}. Known: {', '.join(own)}.{other}"
