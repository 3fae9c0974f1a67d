from __future__ import annotations

import pytest

from hedgerow.errors import UsageError
from hedgerow.registry.store import FolderStore
from hedgerow.registry.stores import open_store
from hedgerow.registry.stores.settings import FolderSettings, S3Settings, parse


@pytest.mark.parametrize(
    "location,expected",
    [
        ("var/registry", FolderSettings("var/registry")),
        ("/srv/registry", FolderSettings("/srv/registry")),
        ("file:///srv/a%20b", FolderSettings("/srv/a b")),
        ("s3://models", S3Settings("models")),
        ("s3://models/fleets/meadow/", S3Settings("models", "fleets/meadow")),
        (
            "s3://models/x?endpoint=https://s3.example.org:9000/&region=eu-1&sse=aws:kms&kms_key=alias/k&ca=/etc/ca.pem",
            S3Settings(
                "models",
                "x",
                endpoint="https://s3.example.org:9000",
                region="eu-1",
                path_style=True,
                sse="aws:kms",
                kms_key="alias/k",
                ca="/etc/ca.pem",
            ),
        ),
        (
            "s3://models?path_style=true&profile=p&attempts=9&conditional=false",
            S3Settings("models", path_style=True, profile="p", attempts=9, conditional=False),
        ),
        (
            "s3://models?endpoint=http://a:1&path_style=false",
            S3Settings("models", endpoint="http://a:1", path_style=False),
        ),
    ],
)
def test_what_an_address_says(location, expected):
    assert parse(location) == expected


@pytest.mark.parametrize(
    "location,what",
    [
        ("", "empty"),
        (" ", "empty"),
        ("ftp://host/x", "'ftp' is no kind of store"),
        ("file://host/x", "three slashes"),
        ("s3:///prefix", "no bucket's name"),
        ("s3://UPPER", "no bucket's name"),
        ("s3://a..b", "no bucket's name"),
        ("s3://ab", "no bucket's name"),
        ("s3://models/a/../b", "'..'"),
        ("s3://models/x#y", "'#'"),
        ("s3://models?colour=red", "no setting 'colour'; there are attempts"),
        ("s3://models?region=", "'region' is empty"),
        ("s3://models?region=a&region=b", "'region' stands twice"),
        ("s3://models?nonsense", "is not SETTING=VALUE"),
        ("s3://models?endpoint=localhost:9000", "is not http"),
        ("s3://models?endpoint=http://h:x", "is not http"),
        ("s3://models?endpoint=http://u:p@h", "is not http"),
        ("s3://models?sse=rot13", "sse is 'rot13'"),
        ("s3://models?kms_key=k", "with sse=aws:kms"),
        ("s3://models?ca=/x", "https endpoint"),
        ("s3://models?path_style=yes", "true or false"),
        ("s3://models?attempts=0", "1 to 20"),
        ("s3://models?attempts=²", "1 to 20"),
    ],
)
def test_what_is_wrong_with_an_address(location, what):
    with pytest.raises(UsageError, match=what.replace("?", r"\?").replace("'..'", r"'\.\.'")) as caught:
        parse(location)
    assert "docs/stores.md" in caught.value.next_step


@pytest.mark.parametrize(
    "location", ["s3://KEY:SECRET@models", "s3://models?secret_key=SECRET", "s3://models?token=SECRET"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(location):
    with pytest.raises(UsageError, match="holds no credentials") as caught:
        parse(location)
    assert "SECRET" not in str(caught.value)


def test_where_says_the_place_and_nothing_of_how():
    assert parse("s3://models/x?sse=AES256&profile=p").where == "s3://models/x"
    assert parse("s3://models?endpoint=http://h:1").where == "s3://models?endpoint=http://h:1"


def test_a_folder_is_opened_as_one(tmp_path):
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert open_store(tmp_path.as_uri()).where == str(tmp_path)


def test_a_ca_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="CA of the store is not there"):
        open_store(f"s3://models?endpoint=https://h:1&ca={tmp_path}/none.pem")
