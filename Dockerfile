# The farm in one image: the server, and the node image that it serves.
#
#   docker build -t farm --build-arg RECIPE=recipes/production.yaml .
#
# `bootfarm container build RECIPE` does the same for recipes with files outside of
# this directory. Works with the classic builder and with BuildKit: no mounts,
# no privileges. docs/kubernetes.md says more.
#
# Each stage gets the code that it runs and its slice of the recipe, and
# nothing else, so a change reruns the stages that it concerns and no others.

# By digest; `make lock-base` renews it (docs/dependencies.md).
ARG BASE_IMAGE=debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

# 1. ltsp-base: what serving needs.
FROM ${BASE_IMAGE} AS ltsp-base
ARG DEBIAN_MIRROR=
ARG DEBIAN_SECURITY_MIRROR=
COPY container/setup-base /farm/setup-base
RUN sh /farm/setup-base

# The server's own C, compiled; one file leaves this stage.
FROM ltsp-base AS fastpath
COPY container/compile-fastpath /farm/compile-fastpath
COPY server/fastpath /farm/fastpath
RUN sh /farm/compile-fastpath /farm/fastpath /farm/_fastpath.so

# Not of the five: how the server is run, with or without a node image beside it.
FROM ltsp-base AS settings
ENV PYTHONPATH=/usr/lib/bootfarm PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    PROMETHEUS_DISABLE_CREATED_SERIES=True \
    BOOTFARM_STORE=/var/lib/bootfarm/store BOOTFARM_STATE=/var/lib/bootfarm/state
USER 10069:10069
WORKDIR /var/lib/bootfarm
EXPOSE 69/udp 8080/tcp 10809/tcp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["bootfarm", "healthcheck", "--live", "--config", "/etc/bootfarm/farm.yaml"]
ENTRYPOINT ["bootfarm"]
CMD ["serve", "--config", "/etc/bootfarm/farm.yaml"]

# Not of the five: the server, which `final` takes over, beside the node image. By itself it is for
# sites that keep their images in a volume:
#
#   docker build --target server -t bootfarm-server .
FROM settings AS server
COPY imagebuild/__init__.py imagebuild/architecture.py imagebuild/errors.py \
     imagebuild/options.py imagebuild/wholefile.py imagebuild/yamlloader.py /usr/lib/bootfarm/imagebuild/
COPY imagebuild/store /usr/lib/bootfarm/imagebuild/store
COPY container/farm.yaml container/lts.conf /etc/bootfarm/
COPY container/bootfarm /usr/local/bin/bootfarm
COPY container/*.py /usr/lib/bootfarm/container/
COPY netboot-config /usr/lib/bootfarm/netboot-config
COPY server /usr/lib/bootfarm/server
COPY --from=fastpath /farm/_fastpath.so /usr/lib/bootfarm/server/fastpath/_fastpath.so
ARG BASE_IMAGE
ARG VERSION=
LABEL org.opencontainers.image.title="bootfarm" \
      org.opencontainers.image.description="Boots bare machines over the network; their images lie elsewhere" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"

# The recipe, cut into what each stage reads of it. The whole context enters
# here and nothing of this stage but the slices leaves it.
FROM ltsp-base AS recipe
ARG RECIPE=recipes/production.yaml
# Other repositories in the recipe's place, as `bootfarm build --repository`: NAME=URI[,key=FILE]…,
# with blanks between them; or a mirrors file. Paths are paths of the context.
ARG REPOSITORIES=
ARG MIRRORS=
COPY . /farm/context
WORKDIR /farm/context
RUN PYTHONDONTWRITEBYTECODE=1 python3 -m imagebuild.container slice "$RECIPE" /farm/slices \
        --repositories "$REPOSITORIES" --mirrors "$MIRRORS"

# 2. basesystem: bootstrap, updates, base packages, kernel, patches.
FROM ltsp-base AS basesystem
ENV PYTHONPATH=/farm/src PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY container/setup-build /farm/setup-build
RUN sh /farm/setup-build
COPY imagebuild/__init__.py imagebuild/architecture.py imagebuild/errors.py \
     imagebuild/wholefile.py imagebuild/yamlloader.py imagebuild/run.py imagebuild/apt.py imagebuild/stage.py imagebuild/container.py \
     /farm/src/imagebuild/
COPY imagebuild/recipe/__init__.py imagebuild/recipe/ingredients.py imagebuild/recipe/packing.py \
     /farm/src/imagebuild/recipe/
COPY imagebuild/stages/__init__.py imagebuild/stages/ltsp_base.py /farm/src/imagebuild/stages/
COPY --from=recipe /farm/slices/ltsp-base /farm/recipe/ltsp-base
RUN python3 -m imagebuild.container ltsp-base
# Packages of the day: give another value (a date) to fetch them anew.
ARG PACKAGES_AS_OF=
COPY imagebuild/chroot/__init__.py imagebuild/chroot/apt.py imagebuild/chroot/patches.py \
     /farm/src/imagebuild/chroot/
COPY imagebuild/dpkg.py /farm/src/imagebuild/
COPY imagebuild/stages/basesystem.py /farm/src/imagebuild/stages/
COPY --from=recipe /farm/slices/basesystem /farm/recipe/basesystem
RUN python3 -m imagebuild.container basesystem

# 3. builder: drivers and tools from source; only the declared outputs leave it.
FROM basesystem AS builder
COPY imagebuild/chroot/kernel.py /farm/src/imagebuild/chroot/
COPY imagebuild/stages/builder.py /farm/src/imagebuild/stages/
COPY imagebuild/rootfs/usr/src /farm/src/imagebuild/rootfs/usr/src
COPY --from=recipe /farm/slices/builder /farm/recipe/builder
RUN python3 -m imagebuild.container builder

# 4. ltsp-image: runtime, Kubernetes, settings, initramfs, squashfs; then the
# boot loaders and the manifest.
FROM basesystem AS ltsp-image
COPY --from=builder /farm/work/builder /farm/work/builder
COPY imagebuild/chroot/kernel.py imagebuild/chroot/configure.py imagebuild/chroot/runtime.py \
     imagebuild/chroot/listing.py \
     /farm/src/imagebuild/chroot/
COPY imagebuild/recipe/compatibility.py imagebuild/recipe/places.py /farm/src/imagebuild/recipe/
COPY imagebuild/sbom/__init__.py imagebuild/sbom/licences.py imagebuild/sbom/parts.py \
     /farm/src/imagebuild/sbom/
COPY imagebuild/stages/builder.py imagebuild/stages/ltsp_image.py /farm/src/imagebuild/stages/
COPY imagebuild/rootfs.links /farm/src/imagebuild/
COPY imagebuild/store/__init__.py imagebuild/store/verity.py /farm/src/imagebuild/store/
COPY imagebuild/rootfs /farm/src/imagebuild/rootfs
COPY --from=recipe /farm/slices/ltsp-image /farm/recipe/ltsp-image
RUN python3 -m imagebuild.container ltsp-image
COPY imagebuild/store/manifest.py imagebuild/store/images.py \
     imagebuild/store/disk.py imagebuild/store/moves.py imagebuild/store/signatures.py \
     /farm/src/imagebuild/store/
COPY imagebuild/sbom/document.py imagebuild/sbom/spdx.py imagebuild/sbom/cyclonedx.py \
     imagebuild/sbom/notices.py /farm/src/imagebuild/sbom/
COPY imagebuild/stages/final.py /farm/src/imagebuild/stages/
COPY --from=recipe /farm/slices/final /farm/recipe/final
RUN python3 -m imagebuild.container final

# 5. final: the server, with the store of the node image baked in.
FROM settings AS final
COPY --from=ltsp-image /farm/baked /usr/share/bootfarm
COPY --from=server /etc/bootfarm /etc/bootfarm
COPY --from=server /usr/local/bin/bootfarm /usr/local/bin/bootfarm
COPY --from=server /usr/lib/bootfarm /usr/lib/bootfarm
# Last, so that another version makes nothing anew but this. No `licenses`: what the image holds has
# hundreds, and `bootfarm images sbom` lists them.
ARG BASE_IMAGE
ARG VERSION=
LABEL org.opencontainers.image.title="bootfarm" \
      org.opencontainers.image.description="Boots bare machines over the network; brings their image" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
