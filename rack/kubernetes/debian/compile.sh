#!/bin/sh
# Runs inside the build root: compiles Kubernetes from Debian's source package,
# unpacked in /build/source, and puts the programs into /build/bin.
#
#   compile.sh VERSION EPOCH    for example v1.20.2 1749422427 (seconds; the
#                               build date that goes into the programs)
set -eu

version=$1
epoch=$2
programs='kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler'
source=/build/source
gopath=/build/gopath

# The vendored reflect2 reads Go's map iterator by an offset that Go 1.18
# moved: every program crashes on its first map. Debian's 1.0.2 knows both.
reflect2=$source/vendor/github.com/modern-go/reflect2
rm -f "$reflect2"/*.go "$reflect2"/*.s
cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go \
    /usr/share/gocode/src/github.com/modern-go/reflect2/*.s "$reflect2"/

# There is no git here to ask for the version.
without_v=${version#v}
major=${without_v%%.*}
rest=${without_v#*.}
cat >/build/version <<VERSION
KUBE_GIT_COMMIT='0000000000000000000000000000000000000000'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='$version'
KUBE_GIT_MAJOR='$major'
KUBE_GIT_MINOR='${rest%%.*}'
VERSION

mkdir -p "$gopath/src/k8s.io" /build/home /build/bin
ln -sfn "$source" "$gopath/src/k8s.io/kubernetes"
cd "$gopath/src/k8s.io/kubernetes"

what=
for program in $programs; do
    what="$what cmd/$program"
done
env -i PATH=/usr/lib/go-1.19/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/build/home GOPATH="$gopath" GOCACHE=/build/home/gocache \
    CGO_ENABLED=0 GOFLAGS=-trimpath GOLDFLAGS='-s -w' LC_ALL=C.UTF-8 \
    SOURCE_DATE_EPOCH="$epoch" \
    KUBE_GIT_VERSION_FILE=/build/version \
    make WHAT="$what"

for program in $programs; do
    cp "_output/bin/$program" /build/bin/
    echo "built $program $(/build/bin/"$program" --version 2>/dev/null ||
        /build/bin/"$program" version 2>/dev/null | head -n 1)"
done

# What holds a pod's namespaces: upstream's own source, beside the rest.
gcc -Os -static -s -DVERSION=3.2 -o /build/bin/pause "$source/build/pause/linux/pause.c"
echo "built pause $(/build/bin/pause -v)"
