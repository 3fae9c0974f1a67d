"""Bundles that are no models: runtimes, adapters, applications; what would be unsafe to run is refused."""

import json
import os
import tarfile
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from packaging.tags import parse_tag

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models import describing, pack_adapter, pack_application, pack_runtime, place
from hedgerow.models.describing import Description
from hedgerow.models.pack_adapter import AdapterRequest
from hedgerow.models.pack_application import ApplicationRequest, read_port
from hedgerow.models.pack_runtime import RuntimeRequest, fits
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Base, Requires

SAID = Description("thing", "1.0.0", "MIT", builder="hedgerow model pack")


def twice(pack, request, tmp_path):
    one, two = (bundle.verify_files(pack(request, cache=tmp_path / f"cache-{number}")) for number in range(2))
    assert one.sha256 == two.sha256
    assert one.manifest.schema == 2
    return one.manifest


# --- runtimes


def wheel(folder, name):
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as file:
        distribution = "-".join(name.split("-")[:2])
        file.writestr(f"{distribution}.dist-info/METADATA", "Name: x\n")
        file.writestr("code.py", "x = 1\n" * 1000)
    return folder


def test_a_runtime_bundle(tmp_path):
    folder = wheel(tmp_path / "wheels", "hedgerow-0.2.0-py3-none-any.whl")
    wheel(folder, "numpy-2.4.6-cp313-cp313-manylinux_2_28_aarch64.whl")
    (folder / "requirements.txt").write_text("hedgerow\n")
    found = twice(pack_runtime.pack, RuntimeRequest(folder, "3.13", "aarch64", SAID), tmp_path)
    assert (found.kind, found.format, found.golden) == ("runtime", "wheels", ())
    assert (found.requires.python, found.requires.machine, found.requires.disk_mb) == ("==3.13", "aarch64", 1)
    assert "wheels/hedgerow-0.2.0-py3-none-any.whl" in {file.path for file in found.files}


@pytest.mark.parametrize(
    "tag, there",
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp313-cp313-manylinux_2_28_aarch64", True),
        ("cp313-cp313-manylinux2014_aarch64.manylinux_2_17_aarch64", True),
        ("cp39-abi3-manylinux_2_28_aarch64", True),
        ("cp314-abi3-manylinux_2_28_aarch64", False),
        ("cp312-cp312-manylinux_2_28_aarch64", False),
        ("cp313-cp313t-manylinux_2_28_aarch64", False),
        ("cp313-cp313-manylinux_2_28_x86_64", False),
        ("cp313-cp313-musllinux_1_2_aarch64", False),
        ("cp313-cp313-macosx_11_0_arm64", False),
        ("pp310-pypy310_pp73-manylinux_2_28_aarch64", False),
    ],
)
def test_which_wheels_a_device_installs(tag, there):
    assert any(fits(each, "3.13", "aarch64") for each in parse_tag(tag)) == there


@pytest.mark.parametrize(
    "names, says",
    [
        ([], "no wheel"),
        (["a-1.0-py3-none-any.whl", "notes.txt"], "notes.txt is no wheel"),
        (["a-1.0-cp312-cp312-manylinux_2_28_aarch64.whl"], "is not for Python 3.13 on aarch64"),
        (["a-1.0-py3-none-any.whl", "a-2.0-py3-none-any.whl"], "twice, as 1.0 and 2.0"),
    ],
)
def test_a_wheelhouse_is_refused(tmp_path, names, says):
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in names:
        wheel(folder, name)
    with pytest.raises(UsageError, match=says):
        pack_runtime.pack(RuntimeRequest(folder, "3.13", "aarch64", SAID), cache=tmp_path / "c")


def test_a_wheel_that_is_none_is_refused(tmp_path):
    folder = wheel(tmp_path / "wheels", "a-1.0-py3-none-any.whl")
    (folder / "a-1.0-py3-none-any.whl").write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match="damaged"):
        pack_runtime.pack(RuntimeRequest(folder, "3.13", "aarch64", SAID), cache=tmp_path / "c")
    with pytest.raises(UsageError, match="no folder"):
        pack_runtime.pack(RuntimeRequest(tmp_path / "none", "3.13", "aarch64", SAID), cache=tmp_path / "c")


# --- adapters


@pytest.fixture
def base(tmp_path):
    """A bundle whose graph has a place for an adapter of rank 2."""
    said = Description("assistant", "1.4.0", "MIT", golden=answers(tmp_path))

    def fill(folder):
        inputs = [helper.make_tensor_value_info("lora.A", TensorProto.FLOAT, [4, "rank"])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, "rank"])]
        graph = helper.make_graph([helper.make_node("Identity", ["lora.A"], ["y"])], "g", inputs, outputs)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx"
        )
        return describing.make(said, folder, files=[said.golden], tools={}, format="onnx-genai", requires=Requires(300))

    return place.build(fill, name="assistant", version="1.4.0", inputs=[], facts=0, tools={}, cache=tmp_path / "base")


def answers(folder):
    path = folder / "golden.json"
    messages = [{"role": "user", "content": "hi"}]
    path.write_text(json.dumps([{"kind": "text", "messages": messages, "expect": "ahoy"}]))
    return path


def adapter(path, **tensors):
    made = onnxruntime.AdapterFormat()
    made.set_adapter_version(1)
    made.set_model_version(1)
    made.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in tensors.items()})
    made.export_adapter(str(path))
    return path


def asked(tmp_path, base, *, tensors=None, version=">=1.0,<2", name="assistant", golden=True):
    tensors = tensors or {"lora.A": np.ones((4, 2), dtype=np.float32)}
    said = Description("tone", "1.0.0", "MIT", golden=answers(tmp_path) if golden else None)
    file = adapter(tmp_path / "a.onnx_adapter", **tensors)
    return AdapterRequest(file, Base(name, version), base, said)


def test_an_adapter_names_its_base(tmp_path, base):
    found = twice(pack_adapter.pack, asked(tmp_path, base), tmp_path)
    assert (found.kind, found.format, found.base) == ("adapter", "onnx-adapter", Base("assistant", ">=1.0,<2"))
    assert found.requires.memory_mb > 300
    assert found.golden[0].expect == "ahoy"


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"version": ">=2"}, "this is assistant@1.4.0"),
        ({"name": "other"}, "this is assistant@1.4.0"),
        ({"golden": False}, "nobody says"),
        ({"tensors": {"lora.B": np.ones((4, 2), dtype=np.float32)}}, "no input 'lora.B'"),
        ({"tensors": {"lora.A": np.ones((5, 2), dtype=np.float32)}}, r"\[5, 2\] in the adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, base, fields, says):
    request = asked(tmp_path, base, **fields)
    with pytest.raises((UsageError, PublisherError), match=says):
        pack_adapter.pack(request, cache=tmp_path / "c")


def test_what_is_no_adapter_is_told(tmp_path):
    path = tmp_path / "x.onnx_adapter"
    with pytest.raises(UsageError, match="no adapter here"):
        pack_adapter.read(path)
    path.write_bytes(b"nothing" * 20)
    with pytest.raises(UsageError, match="cannot read it"):
        pack_adapter.read(path)


# --- applications: folders (images: test_pack_image.py)


@pytest.mark.parametrize("text", ["80", "x", "8090/sctp", "70000", ""])
def test_a_port_is_refused(text):
    with pytest.raises(UsageError):
        read_port(text)


UNIT = "[Service]\nExecStart=/opt/app/run\nDynamicUser=yes\nNoNewPrivileges=yes\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "app"
    (path / "bin").mkdir(parents=True)
    (path / "kiosk.service").write_text(UNIT)
    (path / "bin" / "run").write_text("#!/bin/sh\n")
    (path / "bin" / "run").chmod(0o755)
    (path / "bin" / "start").symlink_to("run")
    return path


def test_a_folder_becomes_an_application(folder, tmp_path):
    found = twice(pack_application.pack, ApplicationRequest(folder, SAID), tmp_path)
    assert (found.format, found.application.user, found.application.unit) == ("unit-folder", "dynamic", "kiosk.service")
    place = next((tmp_path / "cache-0").iterdir())
    with tarfile.open(place / "application.tar") as archive:
        modes = {member.name: (member.mode & 0o777, member.mtime, member.uid) for member in archive}
        assert archive.getmember("bin/start").linkname == "run"
    assert modes["bin/run"] == (0o755, 0, 0)
    assert modes["kiosk.service"] == (0o644, 0, 0)


def test_times_and_places_do_not_count(folder, tmp_path):
    one = pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "a")
    os.utime(folder / "bin" / "run", (1, 1))
    moved = folder.rename(tmp_path / "elsewhere")
    two = pack_application.pack(ApplicationRequest(moved, SAID), cache=tmp_path / "b")
    assert bundle.load(one).sha256 == bundle.load(two).sha256


@pytest.mark.parametrize(
    "unit, says",
    [
        (UNIT.replace("DynamicUser=yes", "User=root"), "unprivileged"),
        (UNIT.replace("DynamicUser=yes", ""), "unprivileged"),
        (UNIT.replace("DynamicUser=yes", "DynamicUser=no"), "unprivileged"),
        (UNIT.replace("/opt/app/run", "+/opt/app/run"), "unprivileged"),
        (UNIT.replace("/opt/app/run", "-!!/opt/app/run"), "unprivileged"),
        (UNIT.replace("DynamicUser=yes", "User=%i"), "unprivileged"),
        (UNIT.replace("DynamicUser=yes", "User=00"), "unprivileged"),
        (UNIT + "ExecStartPre=/bin/true\nExecStartPre=@+/bin/sh\n", "unprivileged"),
        (UNIT + "AmbientCapabilities=CAP_NET_ADMIN\n", "known-settings"),
        (UNIT + "LoadCredential=x:/etc/shadow\n", "known-settings"),
        (UNIT + "StandardOutput=file:/etc/passwd\n", "known-settings"),
        (UNIT + "[Install]\nAlias=sshd.service\n", "known-settings"),
        (UNIT + "[Socket]\nListenStream=80\n", "known-settings"),
        (UNIT.replace("NoNewPrivileges=yes", ""), "no-new-privileges"),
        (UNIT.replace("NoNewPrivileges=yes", "NoNewPrivileges=yes\nNoNewPrivileges=no"), "no-new-privileges"),
    ],
)
def test_a_unit_that_could_gain_rights_is_refused(folder, tmp_path, unit, says):
    (folder / "kiosk.service").write_text(unit)
    with pytest.raises(RefusedError, match=says):
        pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c")


def test_settings_that_fence_a_unit_in_are_allowed(folder, tmp_path):
    fences = "ProtectSystem=strict\nRestrictAddressFamilies=AF_INET\nMemoryMax=100M\nStandardError=journal\n"
    (folder / "kiosk.service").write_text(
        UNIT + fences + "# LoadCredential=no\n[Install]\nWantedBy=multi-user.target\n"
    )
    assert pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c").is_dir()


def test_a_drop_in_is_refused(folder, tmp_path):
    (folder / "kiosk.service.d").mkdir()
    with pytest.raises(RefusedError, match="known-settings"):
        pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c")


def test_a_file_that_could_gain_rights_is_refused(folder, tmp_path):
    (folder / "bin" / "run").chmod(0o4755)
    with pytest.raises(RefusedError, match="no-setuid"):
        pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret"])
def test_a_link_that_leads_out_is_refused(folder, tmp_path, target):
    (folder / "bin" / "out").symlink_to(target)
    with pytest.raises(RefusedError, match="stays-inside"):
        pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c")


@pytest.mark.parametrize("units", [0, 2])
def test_one_unit_and_no_other_number(folder, tmp_path, units):
    if units:
        (folder / "b.service").write_text(UNIT)
    else:
        (folder / "kiosk.service").unlink()
    with pytest.raises(UsageError, match=f"{units} units"):
        pack_application.pack(ApplicationRequest(folder, SAID), cache=tmp_path / "c")
