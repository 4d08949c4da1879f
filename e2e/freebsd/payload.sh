#!/bin/sh
# payload.sh FOLDER: cross-builds for FreeBSD all that runs in the guest. GO is the go command, with its environment.
set -eu
to=$PWD/$1
export GOOS=freebsd GOARCH="${GOARCH:-amd64}" CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
GO=${GO:-go}

build() { # PROGRAM PACKAGE
	$GO build -ldflags "-s -w" -o "$1" "$2"
}

rm -rf "$to"
mkdir -p "$to/bin"
build "jail/launch/bin/shim_freebsd_$GOARCH" ./jail/shim
build "$to/bin/nomad-driver-jail" .
build "$to/bin/httpd" ./examples/httpd
build "$to/bin/csi-folders" ./examples/csi-folders
(cd e2e/agents/nomad && build "$to/bin/nomad" github.com/hashicorp/nomad)
(cd e2e/agents/consul && build "$to/bin/consul" github.com/hashicorp/consul)
$GO build -tags faults -ldflags "-s -w" -o "$to/bin/nomad-driver-jail-faulty" .

root=$PWD
$GO list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r dir; do
	[ -n "$dir" ] || continue
	package=${dir#"$root"}
	name=nomad-driver-jail$(echo "$package" | tr / -)
	mkdir -p "$to$package"
	$GO test -c -ldflags "-s -w" -o "$to$package/$name.test" ".$package"
	if [ -d "$dir/testdata" ]; then
		cp -R "$dir/testdata" "$to$package/"
	fi
done
cp e2e/freebsd/run "$to/run"
