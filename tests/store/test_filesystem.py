from pathlib import Path

import pytest

from frugalbo.errors import StorageError
from frugalbo.store import Store, filesystem
from frugalbo.store.filesystem import INSIST, network_type

MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local xfs rw 0 0
//server/share /mnt/my\040share cifs rw 0 0
me@there: /mnt/there fuse.sshfs rw 0 0
images /mnt/images fuse.squashfuse ro 0 0
/dev/vdc /mnt/twice ext4 rw 0 0
server:/x /mnt/twice lustre rw 0 0
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/runs.db", None),
        ("/home/me/.frugalbo/runs.db", "nfs4"),
        ("/home/local/runs.db", None),
        ("/homes/runs.db", None),
        ("/mnt/my share/runs.db", "cifs"),
        ("/mnt/there/runs.db", "fuse.sshfs"),
        ("/mnt/images/runs.db", None),
        ("/mnt/twice/runs.db", "lustre"),
    ],
)
def test_the_deepest_mount_tells_the_type(tmp_path, path, kind):
    assert network_type(Path(path), MOUNTS) == kind


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("/home/me")
    assert network_type(tmp_path / "link" / "runs.db", MOUNTS) == "nfs4"


def test_a_journal_on_one_is_refused_in_a_sentence_unless_the_user_insists(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/runs {tmp_path}/shared nfs rw 0 0\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)
    (tmp_path / "shared").mkdir()
    path = tmp_path / "shared" / "runs.db"
    with Store(path) as store, pytest.raises(StorageError) as caught:
        store.create_run({})
    assert f"{path} is on a network file system (nfs), where SQLite loses data: give --storage" in str(caught.value)
    assert not path.exists()
    with Store(tmp_path / "runs.db") as store:
        store.create_run({})
    monkeypatch.setenv(INSIST, "1")
    with Store(path) as store:
        assert store.create_run({}) == "run-1"
