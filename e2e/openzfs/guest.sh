#!/bin/sh
# guest.sh FOLDER: makes a virtual machine's kernel and root with today's OpenZFS, from Debian's packages: FOLDER/vmlinuz and FOLDER/root.cpio. The
# packages are unpacked in FOLDER and not installed; ZFS is in Debian's component contrib, which this machine need not have enabled. Needs a
# Debian for amd64, with make and gcc.
set -eu
to=$1
mkdir -p "$to"
to=$(cd "$to" && pwd)
[ "$to/root.cpio" -nt "$0" ] && exit

for command in apt-get dpkg-deb make gcc; do
	command -v $command >/dev/null || {
		echo "no command $command; the virtual machine is made of Debian's packages, on Debian: apt-get install make gcc libelf1" >&2
		exit 1
	}
done

packages="linux-image-cloud-amd64 linux-headers-cloud-amd64 zfs-dkms zfsutils-linux busybox-static dash tar xz-utils zstd e2fsprogs"
# What those packages want and the guest can do without.
absent="debconf debconf-2.0 dkms dpkg file gcc-12 init-system-helpers initramfs-tools kmod libc6-dev linux-base lsb-release perl python3 python3-distutils"
programs="sbin/zfs sbin/zpool bin/tar usr/bin/xz usr/bin/zstd usr/bin/chattr usr/bin/lsattr bin/busybox bin/dash"

apt=$to/apt
tree=$to/tree # the packages' files
root=$to/root # the guest's

# fetch downloads the packages from where this machine has its own from.
fetch() {
	mkdir -p "$apt/lists/partial" "$apt/archives/partial"
	keys=/usr/share/keyrings/debian-archive-keyring.gpg
	apt-get indextargets --format "deb [signed-by=$keys] \$(REPO_URI) \$(RELEASE) main contrib" \
		'Created-By: Packages' 'Origin: Debian' | sort -u >"$apt/sources.list"
	[ -s "$apt/sources.list" ] || {
		echo "apt knows no packages of Debian's; try apt-get update" >&2
		exit 1
	}
	for name in $absent; do
		printf '%s\n' "Package: $name" 'Status: install ok installed' 'Architecture: amd64' 'Multi-Arch: allowed' 'Version: 99' \
			'Maintainer: nobody' 'Description: not in the guest' ''
	done >"$apt/status"
	cat >"$apt/apt.conf" <<-END
		Dir::Etc::SourceList "$apt/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State::Lists "$apt/lists";
		Dir::State::status "$apt/status";
		Dir::Cache "$apt";
		Dir::Log "$apt";
		APT::Architecture "amd64";
		APT::Architectures "amd64";
		APT::Install-Recommends "false";
		APT::Sandbox::User "";
		Debug::NoLocking "true";
	END
	export APT_CONFIG="$apt/apt.conf"
	apt-get -q update
	# shellcheck disable=SC2086 # a list
	apt-get -q -y install --download-only $packages
}

unpack() {
	rm -rf "$tree"
	mkdir -p "$tree"
	for package in "$apt"/archives/*.deb; do
		dpkg-deb -x "$package" "$tree"
	done
	# The headers expect to be installed.
	sed -i "s#/usr/src/#$tree/usr/src/#" "$tree"/usr/src/linux-headers-*-cloud-amd64/Makefile
}

compile() {
	cd "$tree"/usr/src/zfs-*/
	nice ./configure --with-config=kernel --with-linux="$(echo "$tree"/usr/src/linux-headers-*-common)" \
		--with-linux-obj="$(echo "$tree"/usr/src/linux-headers-*-cloud-amd64)"
	nice make -s -j"$(nproc)" -C module
	mkdir -p "$lib/extra"
	find module -name '*.ko' -exec cp {} "$lib/extra/" \;
	strip --strip-debug "$lib"/extra/*.ko
}

# furnish puts together what the guest runs on.
furnish() {
	rm -rf "$root"
	mkdir -p "$root" && cd "$root"
	mkdir -p bin dev etc lib lib64 proc root run sbin sys tmp usr/bin usr/lib usr/sbin "lib/modules/$version"
	for program in $programs; do
		cp "$tree/$program" "$program"
	done
	ln -s dash bin/sh # busybox's prefers its own commands to those in PATH
	cp -a "$tree"/lib64/* lib64/
	for dir in lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu; do
		mkdir -p $dir
		cp -a "$tree/$dir"/*.so* $dir/
	done
	"$tree/bin/busybox" depmod -b "$tree" "$version"
	cd "$lib"
	# The module and those it needs.
	for file in $(sed -n 's#^\([^ ]*/zfs\.ko\):#\1#p' modules.dep); do
		install -D -m 644 "$file" "$root/lib/modules/$version/$file"
	done
	cd "$root"
	"$tree/bin/busybox" depmod -b "$root" "$version"
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >etc/passwd
	printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
	printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
	ln -s /proc/self/mounts etc/mtab
	find . | bin/busybox cpio -o -H newc -R 0:0 >"$to/root.cpio.part"
}

log=$to/log
step() {
	echo "$2"
	$1 >>"$log" 2>&1
}
trap '[ $? = 0 ] || { tail -n 20 "$log" >&2; echo "failed; all of it is in $log" >&2; }' EXIT
: >"$log"
step fetch "downloading Debian's kernel and OpenZFS"
step unpack "unpacking them"
version=$(cd "$tree/lib/modules" && echo *)
lib=$tree/lib/modules/$version
step compile "compiling the modules, which takes some minutes"
step furnish "making the root"
cp "$tree/boot/vmlinuz-$version" "$to/vmlinuz"
cp "$tree/bin/busybox" "$to/busybox"
mv "$to/root.cpio.part" "$to/root.cpio"
rm -rf "$tree" "$root" "$apt"
