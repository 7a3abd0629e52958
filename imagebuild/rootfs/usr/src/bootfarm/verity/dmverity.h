/* A device-mapper device with one target, verity, by the ioctls of linux/dm-ioctl.h. */
#ifndef BOOTFARM_DMVERITY_H
#define BOOTFARM_DMVERITY_H

#include <stdint.h>

#define PARAMETERS_MAX 512

/*
 * The verity target's table: sectors of 512 bytes, and its parameters. least: bytes that the device
 * below has to have.
 */
struct table {
	uint64_t sectors;
	uint64_t least;
	char parameters[PARAMETERS_MAX];
};

/*
 * Reads the words of bootfarm.verity= (imagebuild/store/verity.py): VERSION,DATA_BLOCK,HASH_BLOCK,
 * DATA_BLOCKS,HASH_START,ALGORITHM,ROOT,SALT. device holds data and tree. 0, or -1 with errno
 * EINVAL where a word is not what it has to be.
 */
int read_table(const char *words, const char *device, struct table *table);

/* Makes the read-only device `name`; its number N (/dev/dm-N), or -1 with errno. */
int make_device(const char *name, const struct table *table);

/* Takes it away again. 0, or -1 with errno: EBUSY while it is open. */
int remove_device(const char *name);

#endif
