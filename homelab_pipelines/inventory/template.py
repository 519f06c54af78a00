"""The commented homelab.yaml that `homelab init` writes. Text only; a test holds it against the models."""

from __future__ import annotations

# `# text` explains; `#key: value` and `#  key: value` are keys, switched on by removing the #.
_TEMPLATE = """\
# homelab.yaml: what the homelab should be. Check it with: homelab check
# A key with a # before it shows its default or an example: remove the #, and nothing else, to switch it on.
#
# Sizes are 32GiB or 500MB, rates 20MB/s, durations 26h, 30m or 7d. A secret is never written here: it is a reference,
# {env: NAME} to an environment variable or {file: path} to a file, relative to the folder of this one.

homelab: home                        # name of the homelab
timezone: UTC                        # IANA time zone of all schedules, for example Europe/Berlin
#domain: example.org                 # domain of the homelab
#owner: team:home                    # owner of the assets in Dagster: team:name or an e-mail address

# The machines, by name.
hosts:
  main:
    address: 127.0.0.1               # IP address or host name under which this machine reaches it
    #role: server                    # server, agent, storage or edge
    #arch: amd64                     # amd64 or arm64
    #cpu: 4                          # processor cores
    #memory: 32GiB                   # main memory
    #labels: {room: cellar}          # labels of your own
    #ssh:                            # how to log in
    #  user: admin
    #  port: 22
    #  key: {file: ~/.ssh/id_ed25519} # without it the SSH agent is asked

# The Compose projects, by name, for homelab check and homelab stacks.
#stacks:
#  nextcloud:
#    path: stacks/nextcloud           # folder with the Compose file, or the file, relative to the folder of this one
#    host: main                       # a name from hosts

# The database servers, by name. Every database on them becomes an asset of its own.
databases:
  main:
    kind: postgres
    # Where it is, one of:
    # - {host: main, port: 5432}     a name from hosts, or an address
    # - {socket: /var/run/postgresql, port: 5432}
    # - {container: postgres, docker_host: ssh://admin@192.168.1.10}      docker_host only for another machine
    # - {pod: postgres-0, namespace: default, context: home, pod_container: postgres}
    at: {host: main, port: 5432}
    user: postgres                   # role that reads everything
    password: {env: POSTGRES_PASSWORD}
    #sslmode: prefer                 # as in libpq: disable, allow, prefer, require, verify-ca, verify-full
    #maintenance_database: postgres  # database to connect to for asking for the others
    #include: ["*"]                  # patterns of databases to back up
    #exclude: ["scratch_*"]          # patterns to leave out; they win over include
    #content_hash_up_to: 2GiB        # tables up to this size are compared by content, larger ones by row count; 0: none
    #lock_wait: 60s                  # how long to wait for a locked table
    #verify:                         # where a restore is tried
    #  method: auto                  # auto, local (installed programs), container, server (an entry of databases)
    #  image: postgres:17            # image of the scratch container; by default the source's own
    #  scratch: /var/tmp             # folder for scratch servers
    #  # server: spare               for method server: the entry of databases that may hold scratch databases
    #history:                        # changes, in percent, that stop pruning and raise an alert; null: never
    #  size_drop: 50
    #  rows_drop: 50
    #  size_growth: null
    #  rows_growth: null
    #resources: {memory: 8GiB}       # as resources of backups, for this server alone

backups:
  schedule: "0 2 * * *"              # minute hour day month weekday, in the timezone above
  promise:
    age: 26h                         # a newer backup than this always exists
    restore_within: 30m              # a restore takes no longer than this
  #compression: {zstd: 3}            # 1 is fastest, 19 smallest
  # To encrypt, run  age-keygen -o secrets/age.key  and write the public key that it prints:
  # encrypt_to: [age1…]              each of the identities alone opens the backups
  #identity: {file: secrets/age.key} # opens them; only a verification and a restore need it
  #grace: 24h                        # age at which what an interrupted backup left behind is removed

  # Where every backup is written to, by name. Two targets at two sites survive a fire.
  targets:
    nas:
      directory: backups             # folder, relative to the folder of this file
      #require_mount: true           # refuse to write unless the marker file of the mounted disk is there
      # How many to keep; without keep nothing is ever deleted.
      keep: {last: 3, daily: 7, weekly: 4, monthly: 12, yearly: 0}
      #floor: 1MB/s                  # a target slower than this is let go, and filled afterwards
      #site: home                    # where it stands
    #offsite:
    #  s3: s3://homelab-backups/home
    #  endpoint: https://s3.example.net # without it, Amazon's
    #  region: us-east-1
    #  access_key: {env: S3_ACCESS_KEY}
    #  secret_key: {file: secrets/s3}
    #  path_style: true              # bucket in the path instead of the host name
    #  keep: {weekly: 8, monthly: 24}
    #  limit: 20MB/s                 # upload no faster than this
    #  lock: 30d                     # object lock: nobody can delete a backup for this long; the bucket must allow it
    #  site: second

  # What a run needs that backs up and verifies, in a container or pod: the largest of what its assets ask for.
  #resources:
  #  cpu: 2                          # cores
  #  memory: 4GiB
  #  node_selector: {disk: ssd}      # labels of a Kubernetes node
  #  tolerations: [{key: storage, operator: Equal, value: fast, effect: NoSchedule}]

#alerts:                             # whom to tell when something fails
#  to: [{env: NTFY_URL}]             # apprise addresses: ntfy://…, mailto://…
#  ping: {env: HEALTHCHECKS_URL}     # called at start, success and failure

#housekeeping:                       # of Dagster's own history
#  schedule: "30 4 * * *"            # as above
#  keep_runs: 90d                    # older runs are deleted, unless an asset's or a check's latest result is theirs
#  keep_workers: 7d                  # finished containers and pods of runs are removed at this age
#  storage_limit: 5GiB               # a larger storage raises an alert; null: never
"""


def commented_template() -> str:
    """The file that `homelab init` writes: valid as it is, with every key explained."""
    return _TEMPLATE
