#include "corruption.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "0,17089" is a block of the data, "1,61004" one of the tree (enum verity_block_type). */
static bool read_block(const char *text, struct block *block)
{
	size_t digits = strspn(text + 2, "0123456789");

	if ((text[0] != '0' && text[0] != '1') || text[1] != ',' || digits == 0 || digits > 18 ||
	    text[2 + digits] != '\0')
		return false;
	block->is_hash = text[0] == '1';
	block->number = strtoull(text + 2, NULL, 10);
	return true;
}

enum news read_uevent(const char *data, size_t length, int number, struct block *block)
{
	static const char error[] = "DM_VERITY_ERR_BLOCK_NR=";
	char device[32];
	bool is_ours = false, is_block = false, is_removed = false;

	snprintf(device, sizeof(device), "DEVNAME=dm-%d", number);
	for (size_t at = 0; at < length;) {
		const char *word = data + at;
		const char *end = memchr(word, '\0', length - at);

		if (end == NULL)
			break; /* cut: not the kernel's */
		is_ours |= strcmp(word, device) == 0;
		is_removed |= strcmp(word, "ACTION=remove") == 0;
		if (strncmp(word, error, sizeof(error) - 1) == 0 && strlen(word) > sizeof(error))
			is_block |= read_block(word + sizeof(error) - 1, block);
		at += (size_t)(end - word) + 1;
	}
	if (!is_ours)
		return NEWS_NONE;
	return is_removed ? NEWS_REMOVED : is_block ? NEWS_BLOCK : NEWS_NONE;
}

bool note_block(struct corruption *corruption, const struct block *block)
{
	unsigned int known = corruption->count < BLOCKS_MAX ? corruption->count : BLOCKS_MAX;

	for (unsigned int i = 0; i < known; i++)
		if (corruption->blocks[i].is_hash == block->is_hash &&
		    corruption->blocks[i].number == block->number)
			return false;
	if (known < BLOCKS_MAX)
		corruption->blocks[known] = *block;
	if (corruption->count < 1000000)
		corruption->count++;
	return true;
}

void describe_blocks(const struct corruption *corruption, char words[WORDS_MAX])
{
	unsigned int told = 0;
	int at = 0;

	words[0] = '\0';
	/* A block has 24 characters at most: 12 of them and the rest fit. */
	for (; told < corruption->count && told < BLOCKS_MAX; told++) {
		const struct block *block = &corruption->blocks[told];

		at += snprintf(words + at, WORDS_MAX - (size_t)at, "%s%s %llu",
			       told > 0 ? ", " : "", block->is_hash ? "hash" : "data",
			       (unsigned long long)block->number);
		if (at >= WORDS_MAX - 40) {
			told++;
			break;
		}
	}
	if (corruption->count > told)
		snprintf(words + at, WORDS_MAX - (size_t)at, " and %u more",
			 corruption->count - told);
}
