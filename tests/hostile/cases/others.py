"""Cases 57 to 61: recipes, configs, directories, tokenizers, templates and archives."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile

from .ways import WEIGHTS, Case, checkpoint, generate_with, indexed, load, name_as_model, plan, read_recipe


def written(name, text):
    def make(case):
        path = case.place / name
        path.write_text(text() if callable(text) else text)
        return path

    return make


def alias_bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


def edited(name, **changes):
    def make(case):
        directory = checkpoint(case)
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return directory

    return make


def linked_outside(case):
    directory = checkpoint(case)
    (directory / "config.json").unlink()
    (directory / "config.json").symlink_to("/etc/hostname")
    return directory


def linked_in_a_loop(case):
    directory = checkpoint(case)
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to(WEIGHTS)
    return directory


def setuid(case):
    directory = checkpoint(case)
    (directory / WEIGHTS).chmod(0o4755)
    return directory


def twin_in_capitals(case):
    directory = checkpoint(case)
    shutil.copy(directory / "config.json", directory / "Config.json")
    return directory


def with_pattern(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return edited("tokenizer.json", pre_tokenizer=split)


def with_template(text):
    def make(case):
        directory = checkpoint(case)
        (directory / "chat_template.jinja").write_text(text)
        return directory

    return make


def tar_of(**member):
    """A tar with one entry of that kind, given as the model."""

    def make(case):
        path = case.place / "model.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(member.pop("name", "x"))
            for key, value in member.items():
                setattr(entry, key, value)
            archive.addfile(entry)
        return path

    return make


def zip_without_a_name(case):
    path = case.place / "model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    return path


CASES = {
    "57": Case(written("ingot.yaml", alias_bomb), read_recipe, "ingot.yaml", "more than"),
    "57b": Case(
        written("ingot.yaml", "model: !!python/object/apply:os.system ['true']\n"),
        read_recipe,
        "ingot.yaml",
        "the tag",
    ),
    "58": Case(
        edited("config.json", auto_map={"AutoModel": "modeling.Mine"}), plan, "config.json", "auto_map"
    ),
    "59": Case(linked_outside, plan, "config.json", "a symlink out of the checkpoint"),
    "59b": Case(linked_in_a_loop, plan, "model.safetensors", "its symlinks form a loop"),
    "59c": Case(setuid, plan, "model.safetensors", "setuid"),
    "59d": Case(
        indexed(lambda names: dict.fromkeys(names, "aux.safetensors")),
        plan,
        "model.safetensors.index.json",
        "into 'aux.safetensors'",
    ),
    "59e": Case(twin_in_capitals, plan, "config.json", "where letter case does not count"),
    "60": Case(with_pattern("(a+)+$"), plan, "tokenizer.json", "repeats without end"),
    "60b": Case(with_pattern(r"[\s\S]*[\s\S]*[\s\S]*[\x00][\x01]"), load, "tokenizer.json", "plain text"),
    "60c": Case(
        with_template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        load,
        "chat_template.jinja",
        "leads out of a sandbox",
    ),
    "60d": Case(with_pattern("(a+)+$"), generate_with, "tokenizer.json", "repeats without end"),
    "60e": Case(
        with_pattern(r"[\s\S]*[\s\S]*[\s\S]*[\x00][\x01]"), generate_with, "tokenizer.json", "plain text"
    ),
    "61": Case(
        tar_of(name="../../etc/x"), name_as_model, "model.tar", "is an archive, and archives are not read"
    ),
    "61b": Case(
        tar_of(name="/etc/x"), name_as_model, "model.tar", "is an archive, and archives are not read"
    ),
    "61c": Case(
        tar_of(type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        name_as_model,
        "model.tar",
        "is an archive, and archives are not read",
    ),
    "61d": Case(
        tar_of(type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        name_as_model,
        "model.tar",
        "is an archive, and archives are not read",
    ),
    "61e": Case(zip_without_a_name, plan, "model", "is an archive, and archives are not read"),
}
