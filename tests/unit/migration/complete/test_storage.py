"""Volumes, bind mounts and mounted files: each decided on its own, none silently empty."""

from __future__ import annotations

import base64

import pytest

from homelab_pipelines.migration.draft import Policy
from tests.unit.migration.conftest import Converted
from tests.unit.migration.objects import container, fate, found, names, pod

MOUNT = ("services", "app", "volumes", 0)


def test_named_volume_becomes_a_claim_of_the_policys_size_and_class(converted: Converted) -> None:
    conversion = converted(
        "{services: {app: {image: 'nginx:1', volumes: ['Web_Data:/data:ro']}}, volumes: {Web_Data: {}}}",
        Policy(claim_size="3Gi", storage_class="fast"),
    )
    claim = found(conversion, "PersistentVolumeClaim", "web-data")["spec"]
    assert claim["resources"]["requests"]["storage"] == "3Gi"
    assert (claim["storageClassName"], claim["accessModes"]) == ("fast", ["ReadWriteOnce"])
    mount = {"name": "web-data", "mountPath": "/data", "readOnly": True}
    assert container(conversion, "app")["volumeMounts"] == [mount]
    assert [(copy.source, copy.claim) for copy in conversion.copies] == [("volume:stack_Web_Data", "web-data")]
    assert found(conversion, "Deployment", "app")["spec"]["strategy"] == {"type": "Recreate"}


def test_pods_that_share_a_volume_are_kept_on_one_node_without_a_shared_class(converted: Converted) -> None:
    text = """
        services:
          app: {image: 'nginx:1', volumes: ['media:/m']}
          scan: {image: 'busybox:1', volumes: ['media:/m']}
        volumes: {media: }
    """
    conversion = converted(text)
    affinity = pod(conversion, "scan")["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity[0]["labelSelector"] == {"matchLabels": {"homelab-pipelines.volume/media": "true"}}
    shared = converted(text, Policy(shared_class="nfs"))
    claim = found(shared, "PersistentVolumeClaim", "media")["spec"]
    assert (claim["accessModes"], claim["storageClassName"]) == (["ReadWriteMany"], "nfs")
    assert "affinity" not in pod(shared, "scan")


def test_database_is_never_on_the_shared_class(converted: Converted) -> None:
    conversion = converted(
        """
        services:
          app: {image: 'postgres:17', volumes: ['data:/var/lib/postgresql/data']}
          dump: {image: 'busybox:1', volumes: ['data:/d']}
        volumes: {data: }
        """,
        Policy(shared_class="nfs"),
    )
    assert "storageClassName" not in found(conversion, "PersistentVolumeClaim", "data")["spec"]


def test_nfs_volume_stays_one(converted: Converted) -> None:
    conversion = converted("""
        services: {app: {image: 'nginx:1', volumes: ['nas:/data']}}
        volumes: {nas: {driver_opts: {type: nfs, o: 'addr=10.0.0.5,rw,nfsvers=4', device: ':/export/data'}}}
    """)
    assert pod(conversion, "app")["volumes"] == [
        {"name": "nas", "nfs": {"server": "10.0.0.5", "path": "/export/data"}},
    ]


def test_smb_share_blocks_and_its_password_is_nowhere(converted: Converted) -> None:
    conversion = converted("""
        services: {app: {image: 'nginx:1', volumes: ['nas:/data']}}
        volumes: {nas: {driver_opts: {type: cifs, o: 'username=me,password=hunter2x', device: '//nas/data'}}}
    """)
    assert fate(conversion, "volumes", "nas", "driver_opts", "o") == "blocked"
    assert "hunter2x" not in str(conversion.objects) + str(conversion.blockers)


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        (
            "tmpfs: ['/run:size=64m,mode=755']",
            {"name": "tmp-run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ),
        ("shm_size: 1gb", {"name": "dev-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}),
        (
            "volumes: [{type: tmpfs, target: /cache, tmpfs: {size: 1048576}}]",
            {"name": "tmp-cache", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ),
    ],
)
def test_memory(converted: Converted, text: str, volume: dict[str, object]) -> None:
    assert pod(converted(f"services: {{app: {{image: 'nginx:1', {text}}}}}"), "app")["volumes"] == [volume]


def test_configuration_file_goes_into_a_config_map_and_a_key_into_a_secret(converted: Converted) -> None:
    conversion = converted(
        "services: {app: {image: 'nginx:1', volumes: ['./nginx.conf:/etc/nginx.conf:ro', './tls.key:/tls.key:ro']}}",
        nginx_DOT_conf="status:\nserver {}\n",
        tls_DOT_key="a key\n",
    )
    data = found(conversion, "ConfigMap", "file-nginx-conf")["data"]
    assert data == {"nginx.conf": "status:\nserver {}\n"}, "Kompose cuts files at a line that ends in status:"
    assert conversion.secrets == {"file-tls-key": {"tls.key": b"a key\n"}}
    paths = [(each["mountPath"], each["subPath"]) for each in container(conversion, "app")["volumeMounts"]]
    assert paths == [("/etc/nginx.conf", "nginx.conf"), ("/tls.key", "tls.key")]


def test_binary_file_is_encoded_once(converted: Converted) -> None:
    text = "services: {app: {image: 'nginx:1', volumes: ['./logo.bin:/logo.bin:ro']}}"
    conversion = converted(text, logo_DOT_bin="\0\x01binary")
    stored = found(conversion, "ConfigMap", "file-logo-bin")
    assert base64.b64decode(stored["binaryData"]["logo.bin"]) == b"\0\x01binary"


def test_small_read_only_folder_is_a_config_map_and_a_writable_one_a_claim(converted: Converted) -> None:
    files = {"conf_d__a_DOT_conf": "a\n", "conf_d__sub__b_DOT_conf": "b\n"}
    conversion = converted("services: {app: {image: 'nginx:1', volumes: ['./conf_d:/etc/c:ro']}}", **files)
    (name,) = names(conversion, "ConfigMap")
    items = pod(conversion, "app")["volumes"][0]["configMap"]["items"]
    assert [each["path"] for each in items] == ["a.conf", "sub/b.conf"]
    assert sorted(found(conversion, "ConfigMap", name)["data"].values()) == ["a\n", "b\n"]
    writable = converted("services: {app: {image: 'nginx:1', volumes: ['./conf_d:/etc/c']}}")
    assert [copy.source for copy in writable.copies] == ["./conf_d"]


def test_folder_in_a_folder_is_the_same_claim(converted: Converted) -> None:
    conversion = converted("""
        services:
          app: {image: 'nginx:1', volumes: ['/srv/media:/m']}
          film: {image: 'busybox:1', volumes: ['/srv/media/films:/f']}
    """)
    assert names(conversion, "PersistentVolumeClaim") == {"data-srv-media"}
    (mount,) = container(conversion, "film")["volumeMounts"]
    assert (mount["name"], mount["subPath"]) == ("data-srv-media", "films")
    entry = conversion.ledger.fate(MOUNT)
    assert entry is not None
    assert "not on this machine" in entry.note


@pytest.mark.parametrize(
    ("mount", "ends"),
    [
        ("/var/run/docker.sock:/var/run/docker.sock", "blocked"),
        ("/var/lib/docker/volumes:/v", "blocked"),
        ("/run/other.sock:/run/other.sock", "blocked"),
        ("/srv/app/settings.yaml:/settings.yaml", "blocked"),
        ("/etc/localtime:/etc/localtime:ro", "replaced"),
        ("/proc:/host/proc:ro", "carried"),
        ("/srv/app/data:/data", "carried"),
    ],
)
def test_bind_mount_is_decided_by_its_path(converted: Converted, mount: str, ends: str) -> None:
    conversion = converted(f"services: {{app: {{image: 'nginx:1', volumes: ['{mount}']}}}}")
    assert fate(conversion, *MOUNT, "source") == ends


def test_path_that_cannot_be_looked_at_counts_as_absent(converted: Converted) -> None:
    conversion = converted(f"services: {{app: {{image: 'nginx:1', volumes: ['/srv/{'a' * 300}:/data']}}}}")
    assert fate(conversion, *MOUNT, "source") == "carried"
    assert len(conversion.copies) == 1


def test_clock_becomes_the_time_zone(converted: Converted) -> None:
    text = "services: {app: {image: 'nginx:1', volumes: ['/etc/localtime:/etc/localtime:ro']}}"
    conversion = converted(text, Policy(time_zone="Europe/Berlin"))
    assert container(conversion, "app")["env"] == [{"name": "TZ", "value": "Europe/Berlin"}]
    assert "volumeMounts" not in container(conversion, "app")


def test_secrets_and_configs_keep_their_file_names(converted: Converted) -> None:
    conversion = converted(
        """
        services:
          app:
            image: nginx:1
            secrets: [db_password]
            configs: [{source: settings, target: /etc/app.ini, mode: 0440}]
        secrets: {db_password: {file: ./password.txt}}
        configs: {settings: {content: "a=1"}}
        """,
        password_DOT_txt="hunter2",
    )
    assert conversion.secrets == {"secrets-db-password": {"db_password": b"hunter2"}}
    assert found(conversion, "ConfigMap", "configs-settings")["data"] == {"app.ini": "a=1"}
    mounts = [each["mountPath"] for each in container(conversion, "app")["volumeMounts"]]
    assert mounts == ["/etc/app.ini", "/run/secrets/db_password"]
    modes = [
        volume["configMap"].get("defaultMode") for volume in pod(conversion, "app")["volumes"] if "configMap" in volume
    ]
    assert modes == [0o440]


def test_external_secret_blocks(converted: Converted) -> None:
    conversion = converted("{services: {app: {image: 'nginx:1', secrets: [s]}}, secrets: {s: {external: true}}}")
    assert fate(conversion, "secrets", "s", "external") == "blocked"
    assert fate(conversion, "services", "app", "secrets", 0, "source") == "blocked"
