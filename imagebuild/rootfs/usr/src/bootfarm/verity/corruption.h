/* Blocks that dm-verity found to be wrong, as the kernel's uevents tell them. */
#ifndef BOOTFARM_CORRUPTION_H
#define BOOTFARM_CORRUPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Blocks that are told by their number; of more only how many there are. */
#define BLOCKS_MAX 12
/* Characters of their words, with the NUL. */
#define WORDS_MAX 300

enum news { NEWS_NONE, NEWS_BLOCK, NEWS_REMOVED };

struct block {
	bool is_hash; /* of the tree, not of the data */
	uint64_t number;
};

struct corruption {
	struct block blocks[BLOCKS_MAX];
	unsigned int count; /* of different blocks, those beyond BLOCKS_MAX counted as they come */
};

/*
 * What a uevent says of /dev/dm-NUMBER (kernel: drivers/md/dm-verity-target.c, verity_handle_err;
 * lib/kobject_uevent.c): NUL-terminated words, ACTION@PATH first. block is set for NEWS_BLOCK.
 */
enum news read_uevent(const char *data, size_t length, int number, struct block *block);

/* Takes a block in; whether it was not known. */
bool note_block(struct corruption *corruption, const struct block *block);

/* "data 17089, hash 61004 and 3 more" */
void describe_blocks(const struct corruption *corruption, char words[WORDS_MAX]);

#endif
