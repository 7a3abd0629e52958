"""Which image a node boots of those that may be served, and why there is none."""

from imagebuild.store.images import Image
from server.boot.plan import PlanError, choose_image
from server.site import Site


def choose_served(
    site: Site, wanted: str, name: str | None = None, architecture: str = ""
) -> tuple[Image, str]:
    """`choose_image` among all images of the store, those that may not be served, too.

    Raises PlanError: also where the image that is meant may not be served, in words that say
    so. No other image takes its place.
    """
    every = (*site.images, *(image for image, _ in site.refused))
    meant, reference = choose_image(wanted, every, site.default_image, name, architecture)
    for image, reason in site.refused:
        if (image.name, image.digest) == (meant.name, meant.digest):
            raise PlanError(reason, cause="no_image")
    return meant, reference
