"""PyTorch's files, read without PyTorch: what one kind holds, and why the others are refused."""

import json
import pickle
import random
import tarfile
import zipfile

import pytest
from tests.support import torch_archives as made

from hedgerow.errors import ExitCode, HedgerowError, RefusedError, UsageError
from hedgerow.models import torch_archive
from hedgerow.models.torch_program import Input

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pt2"


def graph(found):
    return found[MODEL]["graph_module"]["graph"]


def test_what_is_there_is_read_and_what_could_run_is_left_away(path, tmp_path):
    archive = torch_archive.read(made.write(path, made.entries(2, 3)))
    assert archive.inputs == (Input("x", 1, (2, 3)),)
    assert (archive.torch, dict(archive.ranges)) == ("2.13.0+cpu", {})
    archive.write(tmp_path / "clean.pt2")
    with zipfile.ZipFile(tmp_path / "clean.pt2") as clean:
        names = {name.removeprefix("model/"): clean.read(name) for name in clean.namelist()}
    assert names["data/sample_inputs/model.pt"] == b""
    assert names["data/weights/weight_0"] == made.entries()["data/weights/weight_0"]
    assert ".data/serialization_id" not in names
    document = json.loads(names[MODEL])
    assert document["guards_code"] == []
    assert "somebody" not in names[MODEL].decode()
    assert [node["target"] for node in document["graph_module"]["graph"]["nodes"]] == [
        "torch.ops.aten.add.Tensor",
        "torch.ops.aten.relu.default",
    ]


def test_the_same_archive_is_written_with_the_same_bytes(path, tmp_path):
    found = made.entries()
    for number, root in enumerate(("net", "other")):
        made.write(path, found, root=root)
        torch_archive.read(path).write(tmp_path / f"{number}.pt2")
    assert (tmp_path / "0.pt2").read_bytes() == (tmp_path / "1.pt2").read_bytes()


def test_free_dimensions_have_names_and_ranges(path):
    found = made.entries("Symbol('s7', positive=True, integer=True)", 3)
    found[MODEL]["range_constraints"] = {"s7": {"min_val": 2, "max_val": None}, "2*s7": {"min_val": 4, "max_val": 9}}
    archive = torch_archive.read(made.write(path, found))
    assert archive.inputs[0].shape == ("s7", 3)
    assert archive.ranges["s7"] == (2, None)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_refused_unread(path, protocol):
    path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol))
    with pytest.raises(RefusedError, match="rule: no-pickle") as caught:
        torch_archive.read(path)
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "torch.export.save" in caught.value.next_step
    assert "safetensors" in caught.value.next_step


@pytest.mark.parametrize(
    "names, rule",
    [
        (("data.pkl", "version", "data/0"), "no-pickle"),  # torch.save
        (("serialized_exported_program.json", "serialized_state_dict.pt", "version"), "no-pickle"),  # before 2.8
        (("data.pkl", "constants.pkl", "code/__torch__.py", "version"), "no-torchscript"),
        (("archive_format", MODEL, "data/aotinductor/model/model.so"), "no-machine-code"),
        (("archive_format", MODEL, "data/weights/model.pt"), "no-pickle"),
    ],
)
def test_other_archives_of_pytorchs_are_refused_by_rule(path, names, rule):
    made.write(path, dict.fromkeys(names, b"x"))
    with pytest.raises(RefusedError, match=f"rule: {rule}"):
        torch_archive.read(path)


def test_a_tar_of_pickles_and_safetensors_are_known(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(RefusedError, match="rule: no-pickle"):
        torch_archive.read(path)
    path.write_bytes((16).to_bytes(8, "little") + b'{"a": 1}        ')
    with pytest.raises(UsageError, match="safetensors") as caught:
        torch_archive.read(path)
    assert "--huggingface" in caught.value.next_step


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda found: found[WEIGHTS]["config"]["bias"].update(use_pickle=True), "no-pickle"),
        (lambda found: found[WEIGHTS]["config"]["bias"].pop("use_pickle"), "no-pickle"),
        (lambda found: found[WEIGHTS]["config"]["bias"].update(path_name="../../x"), "no-pickle"),
        (lambda found: found[CONSTANTS]["config"].update(c={"path_name": "custom_obj_0", "use_pickle": False}), "no-p"),
        (lambda found: found[CONSTANTS]["config"].update(c={"path_name": "opaque_obj_0", "use_pickle": False}), "no-p"),
        (lambda found: found[MODEL]["opset_version"].update(mine=1), "operators of 'mine'.*known-operators"),
        *(
            (lambda found, name=name: graph(found)["nodes"][0].update(target=name), "known-operators")
            for name in (
                "torch.load",
                "torch.hub.load",
                "torch.ops.mine.relu.default",
                "torch.ops.aten.from_file.default",
                "torch.ops.aten.relu.default.__class__",
                "torch.ops.higher_order.cond",
                "_operator.attrgetter",
                "#mine:relu",
                "math.__loader__",
                "",
            )
        ),
        (lambda found: graph(found)["nodes"][0]["inputs"][0].update(arg={"as_operator": "torch.load"}), "known-op"),
        *(
            (lambda found, text=text: graph(found)["tensor_values"].update(x=made.meta(text, 3)), "known-expressions")
            for text in (
                "__import__('os').system('true')",
                "s0.__class__",
                "exec(s0)",
                "Symbol('s0', f=exec)",
                "Symbol('os.system')",
                "s0 if s1 else s2",
                "lambda: s0",
                "[s0]",
                "s0;s1",
                "1" * 1001,
                "",
            )
        ),
        (lambda found: graph(found)["nodes"][0].update(name="y = exec"), "known-names"),
        (lambda found: graph(found)["nodes"][0].update(name="a.b"), "known-names"),
        (lambda found: graph(found)["nodes"][0].update(name="import"), "known-names"),
        (lambda found: graph(found)["tensor_values"].update({"x\nimport os": made.meta(3)}), "known-names"),
        (
            lambda found: found[MODEL]["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
                parameter_name='a", exec("1")) #'
            ),
            "known-names",
        ),
        (
            lambda found: found[MODEL]["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec='[1, {"type": "builtins.dict", "children_spec": [], '
                '"context": "[{\\"__enum__\\": true, \\"fqn\\": \\"os:system\\", \\"name\\": \\"x\\"}]"}]'
            ),
            "known-names",
        ),
        (
            lambda found: found[MODEL]["graph_module"]["module_call_graph"][0]["signature"].update(
                in_spec='[1, {"type": "torch.Size", "children_spec": [], "context": null}]'
            ),
            "known-names",
        ),
    ],
)
def test_what_loading_would_run_is_refused_by_rule(path, change, says):
    found = made.entries()
    change(found)
    with pytest.raises(RefusedError, match=says):
        torch_archive.read(made.write(path, found))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda found: found[MODEL]["schema_version"].update(major=9), "schema 9"),
        (lambda found: found[MODEL].pop("graph_module"), "the program is none"),
        (lambda found: found[MODEL]["graph_module"].pop("signature"), "the program is none"),
        (lambda found: graph(found)["tensor_values"].pop("x"), "the program is none"),
        (lambda found: graph(found)["tensor_values"]["x"].update(dtype=10), "number 10"),
        (lambda found: graph(found)["tensor_values"]["x"].update(sizes=[{"as_int": -1}]), "the program is none"),
        (lambda found: graph(found)["tensor_values"]["x"]["device"].update(type="cuda"), "exported on 'cuda'"),
        (lambda found: found[MODEL]["graph_module"]["signature"].update(input_specs=[]), "no inputs"),
        (
            lambda found: found[MODEL]["graph_module"]["signature"]["input_specs"][1]["user_input"].update(
                arg={"as_int": 3}
            ),
            "no tensor",
        ),
        (lambda found: found.pop("data/weights/weight_0"), "no data/weights/weight_0"),
        (lambda found: found.pop("byteorder"), "no byteorder"),
        (lambda found: found.update(byteorder=b"big"), "little-endian"),
        (lambda found: found.update({MODEL: b"{"}), "no JSON"),
        (lambda found: found.update({MODEL: b"[" * 100_000}), "no JSON"),
        (lambda found: found.update({WEIGHTS: []}), "table of weights"),
        (lambda found: found.update({"models/other.json": {}}), "models/other.json"),
        (lambda found: found.pop("archive_format"), "no archive of torch.export's"),
    ],
)
def test_what_is_no_program_is_told(path, change, says):
    found = made.entries()
    change(found)
    with pytest.raises(UsageError, match=says) as caught:
        torch_archive.read(made.write(path, found))
    assert caught.value.next_step


def test_compressed_entries_and_two_folders_are_refused(path):
    with pytest.raises(UsageError, match="compressed"):
        torch_archive.read(made.write(path, made.entries(), compression=zipfile.ZIP_DEFLATED))
    made.write(path, made.entries())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second/archive_format", b"pt2")
    with pytest.raises(UsageError, match="twice"):
        torch_archive.read(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"not PyTorch's", None])
def test_what_is_nothing_of_pytorchs_is_told(path, data):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        torch_archive.read(path)
    assert caught.value.next_step


def test_cut_off_and_damaged_archives_are_told(path):
    """Whatever is broken: an error for a person, or an archive whose every entry passed."""
    whole = made.write(path, made.entries()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="damaged or cut off"):
        torch_archive.read(path)
    chance = random.Random(1)
    refused = 0
    directory = whole.index(b"PK\1\2")
    for number in range(2000):
        data = bytearray(whole)
        if number % 5 == 0:
            del data[chance.randrange(len(data)) :]
        else:  # mostly where the archive says what it holds
            data[chance.randrange(directory if number % 2 else 0, len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            torch_archive.read(path)
        except HedgerowError:
            refused += 1
    assert refused > 1000
