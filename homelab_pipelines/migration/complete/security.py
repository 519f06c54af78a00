"""As whom a container runs, and what it may.

Accounts for `user`, `group_add`, `cap_add`, `cap_drop`, `privileged`, `read_only`, `security_opt`, `sysctls`,
`userns_mode`, `pid`, `ipc`, `uts`, `cgroup`, `cgroup_parent`, `init`, `ulimits`, `credential_spec`.

Kompose drops security options, sysctls and users by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.values import literal

# kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster: others need the kubelet's allow list.
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip


def apply(draft: Draft) -> None:
    """Set the security contexts of pods and containers."""
    for name, user, path in draft.having("user"):
        _user(draft, name, literal(user), path)
    for name, service, _ in draft.services():
        _puid(draft, name, service.get("environment") or {})
    for name, groups, path in draft.having("group_add"):
        _groups(draft, name, groups, path)
    for key, field in (("cap_add", "add"), ("cap_drop", "drop")):
        for name, capabilities, path in draft.having(key):
            given = draft.container_security(name).setdefault("capabilities", {})
            given[field] = [literal(each).upper().removeprefix("CAP_") for each in capabilities]
            draft.ledger.carried(path, draft.to_container(name, f"securityContext.capabilities.{field}"))
    for key, field in (("privileged", "privileged"), ("read_only", "readOnlyRootFilesystem")):
        for name, value, path in draft.having(key):
            if value:
                draft.container_security(name)[field] = True
            draft.ledger.carried(path, draft.to_container(name, f"securityContext.{field}"))
    for name, options, path in draft.having("security_opt"):
        for index, option in enumerate(options):
            _option(draft, name, literal(option).replace("=", ":", 1), (*path, index))
    for name, values, path in draft.having("sysctls"):
        _sysctls(draft, name, values, path)
    _contradictions(draft)
    _namespaces(draft)
    _process(draft)


def _user(draft: Draft, name: str, user: str, path: Path) -> None:
    uid, _, gid = user.partition(":")
    uid, gid = ("0" if each == "root" else each for each in (uid, gid))
    if not uid.isdecimal() or (gid and not gid.isdecimal()):
        decision = "Kubernetes takes numbers: write what `docker run --rm --entrypoint id IMAGE NAME` says as uid:gid"
        draft.ledger.blocked(path, decision)
        return
    context = draft.container_security(name)
    context["runAsUser"] = int(uid)
    if gid:
        context["runAsGroup"] = int(gid)
    if int(uid) and _has_claims(draft, name):
        draft.pod_security(name).setdefault("fsGroup", int(gid or uid))
    draft.ledger.carried(path, draft.to_container(name, "securityContext.runAsUser, and fsGroup of its volumes"))


def _puid(draft: Draft, name: str, environment: Mapping[str, Any]) -> None:
    """Images that change to PUID:PGID themselves want their volumes to belong to that group."""
    group = literal(environment.get("PGID"))
    if group.isdecimal() and int(group) and _has_claims(draft, name):
        draft.pod_security(name).setdefault("fsGroup", int(group))


def _has_claims(draft: Draft, name: str) -> bool:
    return any("persistentVolumeClaim" in volume for volume in draft.pods[name].spec.get("volumes", ()))


def _groups(draft: Draft, name: str, groups: list[Any], path: Path) -> None:
    for index, group in enumerate(groups):
        if str(group).isdecimal():
            draft.pod_security(name).setdefault("supplementalGroups", []).append(int(group))
            draft.ledger.carried((*path, index), draft.to(name, "securityContext.supplementalGroups"))
        else:
            draft.ledger.blocked((*path, index), "Kubernetes takes numbers: write the group's number")


def _option(draft: Draft, name: str, option: str, path: Path) -> None:
    context = draft.container_security(name)
    kind, _, value = option.partition(":")
    if kind == "no-new-privileges" and value in ("", "true"):
        context["allowPrivilegeEscalation"] = False
        draft.ledger.carried(path, draft.to_container(name, "securityContext.allowPrivilegeEscalation"))
    elif kind == "no-new-privileges":
        draft.ledger.carried(path, "nothing is set: escalation is allowed")
    elif kind in ("seccomp", "apparmor") and value == "unconfined":
        context[f"{'seccomp' if kind == 'seccomp' else 'appArmor'}Profile"] = {"type": "Unconfined"}
        draft.ledger.carried(path, draft.to_container(name, f"securityContext, {kind} unconfined"))
    elif option == "label:disable":
        context["seLinuxOptions"] = {"type": "spc_t"}
        draft.ledger.carried(path, draft.to_container(name, "securityContext.seLinuxOptions"))
    elif kind == "label" and value.partition(":")[0] in ("type", "level", "user", "role"):
        part, _, text = value.partition(":")
        context.setdefault("seLinuxOptions", {})[part] = text
        draft.ledger.carried(path, draft.to_container(name, "securityContext.seLinuxOptions"))
    elif kind in ("seccomp", "apparmor"):
        draft.ledger.blocked(path, f"the {kind} profile has to lie on the node: put it there, and name it as Localhost")
    else:
        draft.ledger.dropped(path, "this option of Docker has no counterpart")


def _sysctls(draft: Draft, name: str, values: Mapping[str, Any], path: Path) -> None:
    host = draft.pods[name].spec.get("hostNetwork", False)
    entries = draft.pod_security(name).setdefault("sysctls", [])
    for key in sorted(values):
        where = (*path, key)
        if host and key.startswith("net."):
            draft.ledger.dropped(where, "with hostNetwork it is the node's own: set it there")
            continue
        entry = {"name": key, "value": literal(values[key])}
        if entry not in entries:
            entries.append(entry)
        draft.ledger.carried(where, draft.to(name, "securityContext.sysctls"))
        if key not in SAFE_SYSCTLS:
            draft.require(f"the kubelet started with --allowed-unsafe-sysctls={key}")
    if not entries:
        draft.pod_security(name).pop("sysctls")


def _contradictions(draft: Draft) -> None:
    """The API server refuses a privileged container that may not gain privileges."""
    for name, _, path in draft.having("security_opt"):
        context = draft.container_security(name)
        if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
            del context["allowPrivilegeEscalation"]
            draft.ledger.blocked(
                path, "it is privileged, also by its devices, and so cannot be kept from more: choose one"
            )


def _namespaces(draft: Draft) -> None:
    for key, field in (("pid", "hostPID"), ("ipc", "hostIPC")):
        for name, value, path in draft.having(key):
            if value == "host":
                draft.pods[name].spec[field] = True
                draft.ledger.carried(path, draft.to(name, field))
            elif key == "ipc" and value in ("private", "shareable", "none"):
                draft.ledger.replaced(path, "the pod's own IPC namespace")
            else:
                draft.ledger.blocked(path, "containers share a namespace only in one pod: join them by network_mode")
    for name, value, path in draft.having("userns_mode"):
        if value == "host":
            draft.ledger.carried(path, "nothing is set: pods are in the node's user namespace")
        else:
            draft.pods[name].spec["hostUsers"] = False
            draft.ledger.replaced(path, draft.to(name, "hostUsers"))
    for _, _, path in draft.having("uts"):
        draft.ledger.dropped(path, "a pod has the node's name only with hostNetwork")
    for key in ("cgroup", "cgroup_parent"):
        for _, _, path in draft.having(key):
            draft.ledger.dropped(path, "the kubelet gives out control groups")
    for _, _, path in draft.having("credential_spec"):
        draft.ledger.blocked(path, "credentials for Windows containers are set by the cluster: choose")


def _process(draft: Draft) -> None:
    for name, value, path in draft.having("init"):
        if value and draft.pods[name].spec.get("hostPID"):
            draft.ledger.replaced(path, "with hostPID the node's own first process reaps the others")
        elif value:
            draft.pods[name].spec["shareProcessNamespace"] = True
            draft.ledger.replaced(
                path, draft.to(name, "shareProcessNamespace: the pod's first process reaps the others")
            )
        else:
            draft.ledger.carried(path, "nothing is set: the container's own program is its first")
    for _, _, path in draft.having("ulimits"):
        draft.ledger.dropped(path, "Kubernetes sets no limits of this kind: the container runtime of the node does")
