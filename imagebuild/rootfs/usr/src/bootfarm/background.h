/* A process that the root file system hangs on, or that speaks of it. */
#ifndef BOOTFARM_BACKGROUND_H
#define BOOTFARM_BACKGROUND_H

/* Into the background of the initramfs, to stay: spared by systemd (name, argv[0], then begins with
 * '@') and by the killer of processes, locked into memory, with words to the kernel's log. */
void detach_from_terminal(char *name);

#endif
