"""From `--teacher` to a captioner, and from a picture to the bytes that an endpoint gets."""

import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from sharecap.captions.captioner import Sampling, UnavailableError
from sharecap.captions.prepare import MAX_SIDE, data_url, prepare
from sharecap.captions.teachers import open_teacher
from sharecap.captions.teachers.endpoint import OPENAI, Endpoint
from sharecap.errors import UsageError
from sharecap.images.decode import ImageError
from sharecap.images.place import loose_file

from ..images.test_decode import encoded, picture


def endpoint(spec: str, key: str = "") -> Endpoint:
    teacher = open_teacher(spec, environment={"OPENAI_API_KEY": key} if key else {})
    assert isinstance(teacher, Endpoint)
    return teacher


def test_an_address_names_endpoint_and_model() -> None:
    teacher = endpoint("http://127.0.0.1:8000/v1/#org/model-7b")
    assert (teacher.url, teacher.name) == ("http://127.0.0.1:8000/v1/chat/completions", "org/model-7b")


def test_openai_takes_its_key_from_the_environment() -> None:
    assert endpoint("openai:gpt-4o", "sk-1").url == f"{OPENAI}/chat/completions"
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        endpoint("openai:gpt-4o")


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "gpt-4o",
        "openai:",
        "local:",
        "http://host/v1",
        "https:///v1#m",
        "ftp://host/v1#m",
        "#m",
        "http://[::1/v1#m",
        "http://host:port/v1#m",
    ],
)
def test_what_names_no_teacher_is_wrong_usage_that_shows_the_forms(spec: str) -> None:
    with pytest.raises(UsageError, match="openai:MODEL"):
        open_teacher(spec, environment={})


def test_an_address_is_shown_with_its_port_and_without_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        open_teacher("http://me:pw@127.0.0.1:8000/v1", environment={})
    assert "http://127.0.0.1:8000/v1" in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("spec", ["https://u:secret@host/v1#m", "https://host/v1?key=secret#m"])
def test_a_key_in_the_address_is_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
        open_teacher(spec, environment={})
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_hold_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="OPENAI_API_KEY"):
        endpoint("openai:gpt-4o", "sk-1\nX-Evil: 1")


def test_a_directory_that_is_no_model_is_wrong_usage(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match="not a model directory"):
            open_teacher(f"local:{place}")


@pytest.mark.parametrize(
    ("form", "media_type"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")]
)
def test_common_formats_go_out_byte_for_byte(form: str, media_type: str) -> None:
    data = encoded(form)
    assert prepare(data, "x") == (f"image/{media_type}", data)


@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_other_formats_become_jpeg_of_the_same_size(form: str) -> None:
    media_type, data = prepare(encoded(form), "x")
    assert media_type == "image/jpeg"
    assert Image.open(io.BytesIO(data)).size == picture().size


def test_a_turned_picture_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    media_type, data = prepare(encoded("JPEG", picture(40, 30), exif=exif.tobytes()), "x")
    image = Image.open(io.BytesIO(data))
    assert (media_type, image.size, image.getexif().get(0x0112)) == ("image/jpeg", (30, 40), None)


def test_a_huge_picture_in_another_format_is_shrunk() -> None:
    _, data = prepare(encoded("BMP", picture(3000, 100)), "x")
    assert Image.open(io.BytesIO(data)).size == (MAX_SIDE, 68)


def test_bytes_that_are_not_the_catalogued_ones_are_never_sent(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded("PNG"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data_url(loose_file(path, digest)).startswith(b"data:image/png;base64,")
    path.write_bytes(encoded("PNG", picture(seed=1)))
    with pytest.raises(ImageError) as caught:
        data_url(loose_file(path, digest))
    assert caught.value.reason == "changed"


def test_an_error_message_loses_its_keys_and_no_other_words() -> None:
    teacher = endpoint("http://host/v1#m", "abc123xyz")
    told = "Incorrect API key provided: sk-abc***7890. Not abc123xyz. Bearer qwertyuiop"
    told = str(teacher._refused(401, told.encode(), None))
    assert "Incorrect API key provided: sk-*** Not ***. Bearer ***" in told


@pytest.mark.parametrize(("status", "maybe"), [(500, False), (503, False), (502, True), (504, True)])
def test_a_gateway_that_gave_up_may_have_a_bill_behind_it(status: int, maybe: bool) -> None:
    error = endpoint("http://host/v1#m")._refused(status, b"", None)
    assert isinstance(error, UnavailableError)
    assert error.maybe_billed == maybe


def test_a_requests_body_is_the_json_that_the_preview_shows() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "model")
    url = b"data:image/png;base64,aGVsbG8+/w=="
    for prompt in (
        "Describe it.",
        'quotes " and \\ and \u2028 and ünïcode',
        '"url": "\\u0000picture\\u0000"',
    ):
        made = endpoint.payload(prompt, url, Sampling(seed=3))
        assert made == json.dumps(endpoint.body(prompt, url.decode(), Sampling(seed=3))).encode()
