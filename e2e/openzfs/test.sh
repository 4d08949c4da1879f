#!/bin/sh
# test.sh FOLDER [ARGUMENTS]: runs the tests that want a ZFS pool in the virtual machine that guest.sh made in FOLDER. ARGUMENTS are the tests' own,
# such as -test.run=Receive. GO is the go command, with its environment; PACKAGES are whose tests to run; ACCEL is "kvm" where that works.
set -eu
guest=$(cd "$1" && pwd)
shift
packages=${PACKAGES:-"storage image image/command e2e/zfs e2e/zfs/pool"}
export GOOS=linux GOARCH=amd64 CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
tests=$dir/root/tests
for package in $packages; do
	${GO:-go} test -c -ldflags "-s -w" -o "$tests/$package/run.test" "./$package"
	echo "$package" >>"$tests/packages"
done
# A package's tests read their testdata, and some another's.
find storage image -name testdata -type d | tar -c -T - | tar -x -C "$tests"
echo "$*" >"$tests/arguments"
cp "$(dirname "$0")/init" "$dir/root/init"
(cd "$dir/root" && find . | "$guest/busybox" cpio -o -H newc -R 0:0 2>/dev/null) | cat "$guest/root.cpio" - >"$dir/root.cpio"
rm -rf "$dir/root"

timeout 2h qemu-system-x86_64 -machine q35 -accel "${ACCEL:-tcg}" -cpu max -smp 2 -m 3072 -display none -monitor none -nic none -no-reboot \
	-kernel "$guest/vmlinuz" -initrd "$dir/root.cpio" -append "console=ttyS0 quiet panic=-1 mitigations=off" \
	-serial stdio </dev/null | tee "$guest/output"
grep -q '^status=0' "$guest/output"
