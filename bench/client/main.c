/* The load client of `make bench`: `load nbd|tftp|http|storm ...` prints one JSON object. */
#include "load.h"

#include <string.h>
#include <sys/resource.h>

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    open_events();
    if (argc > 1 && !strcmp(argv[1], "nbd")) return main_nbd(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "tftp")) return main_tftp(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "http")) return main_http(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "storm")) return main_storm(argc - 2, argv + 2);
    die("usage: load nbd|tftp|http|storm ...");
}
