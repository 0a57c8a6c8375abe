"""Test the download of N-MNIST: which archives, from where, and how they are unpacked."""

import io
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest
from support import fake_nmnist
from support.servers import QUICK, make_archive, zip_bytes

import nmnist_helpers.data.download as download_module
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.download import ARCHIVES, DownloadError, check_archive, download, unpack_archive

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_official_archives_are_as_published():
    train, test = ARCHIVES
    assert (train.name, test.name) == ("Train.zip", "Test.zip")
    assert (sum(train.per_digit), sum(test.per_digit)) == (60_000, 10_000)
    assert train.md5 == "20959b8e626244a1b502305a9e6e2031"
    assert test.md5 == "69ca8762b2fe404d9b9bad1103e97832"
    for archive in ARCHIVES:
        assert all(u.startswith("https://data.mendeley.com/") and u.endswith("/file_downloaded") for u in archive.urls)


def test_dataset_downloads_its_split(tmp_path, server, small_archives, capsys):
    root = tmp_path / "data"
    dataset = NMNISTDataset(root, train=True, download=True)
    out = capsys.readouterr().out
    assert "Frontiers in Neuroscience 9:437, 2015" in out
    assert "CC BY-SA 4.0" in out
    assert "Train.zip: 20 recordings, as expected; of the digits 0 to 9: 2, 2, 2, 2, 2, 2, 2, 2, 2, 2" in out
    assert dataset.source == "recorded"
    assert len(dataset) == 20
    assert (root / "Train.zip").read_bytes() == server.body
    requests = len(server.requests)
    NMNISTDataset(root, train=True, download=True)
    assert len(server.requests) == requests
    assert "Frontiers" not in capsys.readouterr().out


def test_the_md5_of_an_unchanged_archive_is_not_computed_again(tmp_path, small_archives, monkeypatch):
    download(tmp_path, train=True)

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(pooch, "file_hash", fail)
    download(tmp_path, train=True)
    os.utime(tmp_path / "Train.zip", ns=(1, 1))
    with pytest.raises(AssertionError, match="computed again"):
        download(tmp_path, train=True)


def test_the_error_explains_how_to_fetch_the_archive_by_hand(tmp_path, small_archives):
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, train=False, downloader=QUICK)
    message = str(caught.value)
    for part in ("answered 404", "To fetch it by hand", "Test.zip", "0" * 32, str(tmp_path), "mendeley.com"):
        assert part in message


def test_archives_fetched_by_hand_are_used(tmp_path, server, small_archives):
    (tmp_path / "Train.zip").write_bytes(server.body)
    assert download(tmp_path, train=True) == [tmp_path / "Train.zip"]
    assert not server.requests


@pytest.mark.skipif(os.name == "nt", reason="chmod does not protect a folder on Windows")
def test_archives_in_read_only_folders_are_used_and_missing_ones_raise(tmp_path, server, small_archives):
    root = tmp_path / "data"
    root.mkdir()
    (root / "Train.zip").write_bytes(server.body)
    root.chmod(0o555)
    try:
        assert len(NMNISTDataset(root, download=True)) == 20
        (root / "Train.zip").unlink()
        with pytest.raises(PermissionError, match=r"cannot be written\. To fetch it by hand"):
            download(root, train=True)
    finally:
        root.chmod(0o755)


def test_recordings_in_existing_folders_are_counted_and_kept(tmp_path, server, small_archives, capsys):
    fake_nmnist.write_folder(tmp_path, "Train", fake_nmnist.make(4, per_digit=1))
    assert download(tmp_path, train=True) == [tmp_path / "Train"]
    assert "10 recordings, of the digits 0 to 9: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1; the official archive has 20" in (
        capsys.readouterr().out
    )
    assert not server.requests


def test_mirrors_of_the_environment_variable_are_tried_first(tmp_path, server, small_archives, monkeypatch):
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NMNIST_MIRRORS", f"{base}/missing {base}/good/mine/")
    download(tmp_path, train=True)
    assert [path for path, _ in server.requests] == ["/missing/Train.zip", "/good/mine/Train.zip"]


def test_archives_with_wrong_numbers_of_recordings_are_refused(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "good", per_digit=(2,) * 9 + (3,))
    with pytest.raises(DownloadError, match=r"md5 as expected, but .*expected 21 recordings, .*\[2, 2, .*, found 20, "):
        download(tmp_path, archives=[archive], downloader=QUICK)
    assert not (tmp_path / "Train.zip").exists()


def test_the_command_passes_its_options_on(monkeypatch, tmp_path, capsys):
    calls = []

    def record_call(root, train, unpack):
        calls.append((root, train, unpack))
        return [tmp_path / "Test.zip"]

    monkeypatch.setattr(download_module, "download", record_call)
    download_module.main([str(tmp_path), "--test", "--unpack"])
    download_module.main([])
    assert calls == [(str(tmp_path), False, True), (None, None, False)]
    assert "Test.zip" in capsys.readouterr().out


# -- unpacking


def test_unpacked_recordings_equal_those_in_the_archive(tmp_path, server, small_archives):
    (folder,) = download(tmp_path / "data", train=True, unpack=True)
    assert folder == tmp_path / "data" / "Train"
    with zipfile.ZipFile(io.BytesIO(server.body)) as archive:
        packed = {m.filename: archive.read(m) for m in archive.infolist() if not m.is_dir()}
    unpacked = {f"Train/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*.bin")}
    assert unpacked == packed
    assert len(NMNISTDataset(tmp_path / "data")) == 20
    assert [p.name for p in folder.parent.iterdir() if p.is_dir() and p.name.startswith(".Train")] == []
    with pytest.raises(FileExistsError, match="Train: expected no such folder yet, found one"):
        unpack_archive(tmp_path / "data" / "Train.zip", folder)


def has_no_files(folder: Path):
    return not [p.name for p in folder.iterdir() if p.is_file() and not p.name.endswith(".lock")]


def write_malicious_zip(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Train/1/00001.bin", bytes(5))
        for name, data in members:
            archive.writestr(name, data)
    return path


def link_member():
    info = zipfile.ZipInfo("Train/1/00002.bin")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


MALICIOUS = {
    "parent": ("Train/../../1/00009.bin", bytes(5)),
    "deep parent": ("../1/00009.bin", bytes(5)),
    "absolute": ("/tmp/1/00009.bin", bytes(5)),
    "backslash": ("Train\\1\\..\\..\\00009.bin", bytes(5)),
    "drive": ("C:/1/00009.bin", bytes(5)),
    "link": link_member(),
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_members_outside_the_folder_are_refused(tmp_path, server, case):
    (tmp_path / "work" / "data").mkdir(parents=True)
    archive_path = write_malicious_zip(tmp_path / "work" / "data" / "evil.zip", MALICIOUS[case])
    before = sorted(p for p in tmp_path.rglob("*"))
    expected = r"inside the archive's own folder, found|a link or a device"
    with pytest.raises(ValueError, match=expected):
        unpack_archive(archive_path, tmp_path / "work" / "data" / "Train")
    archive = make_archive(server, archive_path.read_bytes(), "good", per_digit=(0, 2) + (0,) * 8)
    with pytest.raises(ValueError, match=expected):
        check_archive(archive_path, archive)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    # Such an archive is also refused as a download with the right MD5, before it gets its final name.
    with pytest.raises(DownloadError, match=expected):
        download(tmp_path / "work" / "data", archives=[archive], unpack=True, downloader=QUICK)
    assert has_no_files(tmp_path / "work")
    assert not (tmp_path / "work" / "data" / "Train.zip").exists()
    assert not (tmp_path / "work" / "data" / "Train").exists()


def test_a_truncated_archive_with_the_right_md5_is_refused(tmp_path, server):
    body = zip_bytes(tmp_path)
    archive = make_archive(server, body[: len(body) // 2], "good")
    with pytest.raises(DownloadError, match="md5 as expected, but .*expected a complete zip archive"):
        download(tmp_path / "data", archives=[archive], downloader=QUICK)
    assert not (tmp_path / "data" / "Train.zip").exists()


def test_the_folder_of_a_killed_process_is_removed(tmp_path):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))
    for name in (".Train.0123abcd", ".Train.89efdead", ".Test.01234567", ".Train.mine"):
        (tmp_path / name / "0").mkdir(parents=True)
    unpack_archive(path, tmp_path / "Train")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [".Test.01234567", ".Train.mine", "Train"]


def test_unpacking_a_damaged_archive_leaves_no_folder(tmp_path):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0, count=300))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Train/\d/\d+\.bin': expected a member that can be unpacked"):
        unpack_archive(path, tmp_path / "Train")
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "Train.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(12):
            archive.writestr(f"Train/1/0000{n}.bin", bytes(10_000_000))
    with pytest.raises(ValueError, match="expected at most 100 times its .* bytes when unpacked, .* found 120000000"):
        unpack_archive(path, tmp_path / "Train")


def test_a_member_longer_than_announced_is_refused(tmp_path):
    # The archive announces 5 bytes for a member of 5,000.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Train/1/00001.bin", np.zeros(5000, np.uint8).tobytes())
    data = buffer.getvalue().replace((5000).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    (tmp_path / "Train.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"00001\.bin': expected a member that can be unpacked"):
        unpack_archive(tmp_path / "Train.zip", tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_too_little_disk_space_raises_before_unpacking(tmp_path, monkeypatch):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))

    class Usage:
        free = 1000

    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda p: Usage)
    with pytest.raises(OSError, match=r"GB of room to unpack Train\.zip, found .* GB free"):
        unpack_archive(path, tmp_path / "Train")
    assert not (tmp_path / "Train").exists()
