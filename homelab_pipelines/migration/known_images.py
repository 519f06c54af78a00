"""What is known of images by their names: the port they listen on, and whether they are a database.

Ports are those of the images' own documentation on their registries (`EXPOSE`). The catalogue of apps takes this over.
"""

from __future__ import annotations

from homelab_pipelines.migration.values import image_name

_PORTS: dict[str, int] = {
    "postgres": 5432, "postgresql": 5432, "postgis": 5432, "pgvecto-rs": 5432, "pgvector": 5432, "timescaledb": 5432,
    "mariadb": 3306, "mysql": 3306, "redis": 6379, "valkey": 6379, "keydb": 6379, "mongo": 27017, "mongodb": 27017,
    "memcached": 11211, "rabbitmq": 5672, "elasticsearch": 9200, "opensearch": 9200, "influxdb": 8086,
    "clickhouse-server": 8123, "kafka": 9092, "cp-kafka": 9092, "zookeeper": 2181, "etcd": 2379, "nats": 4222,
    "meilisearch": 7700, "typesense": 8108, "qdrant": 6333, "minio": 9000, "eclipse-mosquitto": 1883,
    "nginx": 80, "httpd": 80, "caddy": 80, "tika": 9998, "gotenberg": 3000,
}  # fmt: skip
_DATABASES = {
    "postgres", "postgresql", "postgis", "pgvecto-rs", "pgvector", "timescaledb", "mariadb", "mysql", "redis", "valkey",
    "keydb", "mongo", "mongodb", "rabbitmq", "elasticsearch", "opensearch", "influxdb", "clickhouse-server", "kafka",
    "cp-kafka", "zookeeper", "etcd", "nats", "meilisearch", "typesense", "qdrant", "minio",
}  # fmt: skip


def known_port(image: str) -> int | None:
    """The port that an image of this name listens on."""
    return _PORTS.get(_known_as(image))


def is_database(image: str) -> bool:
    """Whether an image of this name keeps its state on disk and wants identity: a database, a queue, a store."""
    return _known_as(image) in _DATABASES


def _known_as(image: str) -> str:
    name = image_name(image)
    return "postgres" if name.endswith("-postgres") else name
