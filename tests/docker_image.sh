#!/bin/bash
# Builds the Dockerfile without Docker and without an image registry, and starts what came out.
#
# buildah does it in chroot isolation, which needs root and no kernel feature. The two public base images are replaced by
# stand-ins of the same names: a Debian of the same release made by debootstrap, and the same with the Deno in use.
# The last line is `N passed, N failed`, or says why it is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "docker image: skipped, $1"; echo "0 passed, 0 failed"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
command -v buildah >/dev/null || skip "buildah is not installed"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"

deno=${WALVAULT_DENO:-$(command -v deno || true)}
[ -n "$deno" ] || deno=$(npx -y deno@2.9.5 eval 'console.log(Deno.execPath())')

work=$(mktemp --directory --tmpdir walvault-image.XXXXXX)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
container=
cleanup() {
  [ -z "$container" ] || buildah "${storage[@]}" rm "$container" >/dev/null 2>&1 || true
  rm -rf "$work" 2>/dev/null || true
}
trap cleanup EXIT
unset REGISTRY_AUTH_FILE # buildah fails if it names a file that is not there

build() { # TAG CONTEXT
  buildah "${storage[@]}" bud --isolation chroot --pull=never --network host --quiet --tag "$1" "$2" >"$work/log" 2>&1 ||
    { cat "$work/log"; return 1; }
}

passed=0 failed=0
check() { # NAME COMMAND…
  local name=$1
  shift
  if "$@" >"$work/output" 2>&1; then
    passed=$((passed + 1)) && echo "ok: $name"
  else
    failed=$((failed + 1)) && echo "FAILED: $name" && cat "$work/output"
  fi
}

echo "base images"
mkdir "$work/debian" "$work/deno"
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
  grep --only-matching --extended-regexp '^[^#]*https?://[^ ]+/debian/?( |$)' | grep --only-matching 'http[^ ]*' | head -n 1) || true
debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
  { cat "$work/log"; exit 1; }
authorities=/etc/ssl/certs/ca-certificates.crt # a closed network may have its own
[ ! -f "$authorities" ] || cp "$authorities" "$work/root$authorities"
tar -C "$work/root" -cf "$work/debian/root.tar" . && rm -rf "$work/root"
printf 'FROM scratch\nADD root.tar /\n' >"$work/debian/Dockerfile"
build docker.io/library/debian:bookworm-slim "$work/debian"
rm -rf "$work/debian"
cp "$deno" "$work/deno/deno"
{
  printf 'FROM debian:bookworm-slim\nCOPY deno /usr/bin/deno\nENV NODE_EXTRA_CA_CERTS=%s\n' "$authorities"
  [ -z "${NPM_CONFIG_REGISTRY:-}" ] || printf 'ENV NPM_CONFIG_REGISTRY=%s\n' "$NPM_CONFIG_REGISTRY"
} >"$work/deno/Dockerfile"
build docker.io/denoland/deno:debian-2.9.5 "$work/deno"
rm -rf "$work/deno"

echo "the image"
check "the Dockerfile builds" build walvault:test .
[ "$failed" = 0 ] || { echo "$passed passed, $failed failed"; exit 1; }

container=$(buildah "${storage[@]}" from --pull=never walvault:test)
inside() { buildah "${storage[@]}" run --isolation chroot "$container" -- "$@"; }
version=$(sed -nE 's/^ *"version": "([^"]+)".*/\1/p' deno.json)
configuration=$(buildah "${storage[@]}" inspect --type image --format \
  '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Volumes}}' walvault:test)

prints() { local expected=$1; shift; grep --quiet --fixed-strings -- "$expected" <("$@" 2>&1) || { "$@"; return 1; }; }
refuses() { ! inside sh -c "$1"; }
check "walvault --version is $version" prints "$version" inside walvault --version
check "walvault receive --help names its options" prints "--archive" inside walvault receive --help
check "it runs as 10001, with receive as entrypoint and the archive as volume ($configuration)" \
  test "$configuration" = "10001:10001 [walvault receive] map[/var/lib/walvault:{}]"
check "the user is not root" test "$(inside id -u)" = 10001
check "the user can write the archive" inside sh -c 'touch /var/lib/walvault/probe && rm /var/lib/walvault/probe'
check "the user can't change the program" refuses 'touch /usr/lib/walvault/walvault.js 2>/dev/null'
check "the program's writes end at the archive" prints "--allow-write=/var/lib/walvault'" inside cat /usr/bin/walvault

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
