/* tcpblast: asks a DNS server over TCP, with many short connections or with few long, pipelined ones.
 *
 *   tcpblast -p PORT -f QUERIES [-t SECONDS] [-c CONNECTIONS] [-k QUERIES PER CONNECTION] [-d DEPTH]
 *
 * -k 1 is a connection for each query, closed by RST so that no TIME_WAIT piles up; -d is how many queries of a connection
 * are outstanding. QUERIES as for udpblast. Every reply must carry the question of an outstanding query of its connection
 * octet for octet; what is not so counts as `bad`. One JSON line comes out. Only loopback is ever asked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 70000, BUCKETS = 64 * 32, ASKED = 1024 };

struct connection {
	int fd, sent, got, filled;
	uint64_t since;
	uint32_t asked[ASKED]; /* the query's number by id */
	uint8_t buffer[BUFFER];
};

static struct {
	const char *address, *file;
	int port, connections, each, depth;
	double seconds, warm;
} set = {"127.0.0.1", NULL, 53, 32, 1, 1, 2, 0.3};

static struct sockaddr_in server = {.sin_family = AF_INET};
static int epoll;
static uint8_t *queries;
static uint32_t *offsets;
static long count;
static uint64_t query, from, to;
static struct {
	uint64_t answered, all, finished, opened, errors, closed, bad, octets, with_answer, rcode[16];
} seen;
static uint64_t latency[BUCKETS];

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int bucket(uint64_t ns)
{
	if (ns < 32)
		return ns;
	int e = 63 - __builtin_clzll(ns);
	return (e - 4) * 32 + ((ns >> (e - 5)) & 31);
}

static double bucket_us(int b)
{
	uint64_t ns = b < 32 ? (uint64_t)b : (32ull + (b & 31)) << (b / 32 - 1);
	return ns / 1000.0;
}

static void read_arguments(int argc, char **argv)
{
	for (int o; (o = getopt(argc, argv, "s:p:f:t:c:k:d:W:")) != -1;)
		switch (o) {
		case 's': set.address = optarg; break;
		case 'p': set.port = atoi(optarg); break;
		case 'f': set.file = optarg; break;
		case 't': set.seconds = atof(optarg); break;
		case 'c': set.connections = atoi(optarg); break;
		case 'k': set.each = atoi(optarg); break;
		case 'd': set.depth = atoi(optarg); break;
		case 'W': set.warm = atof(optarg); break;
		default: exit(2);
		}
	server.sin_port = htons(set.port);
	if (strncmp(set.address, "127.", 4) || !set.file || set.seconds > 60 ||
	    set.depth > ASKED || inet_pton(AF_INET, set.address, &server.sin_addr) != 1) {
		fprintf(stderr, "tcpblast: loopback only, -f is needed, at most 60 s\n");
		exit(2);
	}
}

static void read_queries(void)
{
	FILE *file = fopen(set.file, "rb");
	if (!file || fseek(file, 0, SEEK_END)) {
		perror(set.file);
		exit(2);
	}
	long size = ftell(file);
	rewind(file);
	queries = malloc(size);
	offsets = malloc(sizeof *offsets * (size / 14 + 2));
	if (!queries || !offsets || fread(queries, 1, size, file) != (size_t)size)
		exit(2);
	fclose(file);
	for (long at = 0; at + 2 <= size; at += 2 + (queries[at] << 8 | queries[at + 1]))
		offsets[count++] = at;
	if (!count)
		exit(2);
}

static void dial(struct connection *c)
{
	int one = 1;
	struct linger reset = {1, 0};
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	c->sent = c->got = c->filled = 0;
	c->since = now();
	if (connect(c->fd, (void *)&server, sizeof server) && errno != EINPROGRESS)
		seen.errors++;
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
	epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
	seen.opened++;
}

/* Fills the pipeline: as many queries as may be outstanding, in one write. */
static void ask(struct connection *c)
{
	uint8_t data[65536];
	int length = 0, sent = c->sent;
	for (; sent < set.each && sent - c->got < set.depth && length < 60000; sent++) {
		uint8_t *next = queries + offsets[query];
		int size = (next[0] << 8 | next[1]) + 2;
		memcpy(data + length, next, size);
		data[length + 2] = sent >> 8;
		data[length + 3] = sent;
		c->asked[sent % ASKED] = query;
		length += size;
		query = query + 1 == (uint64_t)count ? 0 : query + 1;
	}
	if (length && send(c->fd, data, length, MSG_NOSIGNAL) != length)
		seen.errors++;
	c->sent = sent;
}

/* Counts a reply by what it is. Replies may come in any order. */
static void look(const struct connection *c, const uint8_t *reply, int length)
{
	const uint8_t *asked = queries + offsets[c->asked[(reply[0] << 8 | reply[1]) % ASKED]] + 2;
	int end = 12;
	while (asked[end])
		end += 1 + asked[end];
	end += 5;
	seen.bad += length < end || !(reply[2] & 0x80) || memcmp(reply + 4, asked + 4, 2) ||
		    memcmp(reply + 12, asked + 12, end - 12);
	seen.rcode[reply[3] & 15]++;
	seen.with_answer += (reply[6] | reply[7]) != 0;
	seen.octets += length;
}

/* Takes what has arrived; 1 when the connection is done or broken. */
static int take(struct connection *c)
{
	int got = recv(c->fd, c->buffer + c->filled, sizeof c->buffer - c->filled, 0), at = 0;
	if (got <= 0) {
		if (got && errno == EAGAIN)
			return 0;
		seen.closed++;
		return 1;
	}
	uint64_t t = now();
	int counts = t >= from && t < to;
	for (c->filled += got; c->filled - at >= 2; c->got++) {
		int length = c->buffer[at] << 8 | c->buffer[at + 1];
		if (c->filled - at - 2 < length)
			break;
		if (length < 12)
			seen.bad++;
		else if (counts)
			look(c, c->buffer + at + 2, length);
		at += 2 + length;
		seen.all++;
		seen.answered += counts;
	}
	memmove(c->buffer, c->buffer + at, c->filled - at);
	c->filled -= at;
	if (c->got >= set.each) {
		seen.finished += counts;
		if (counts)
			latency[bucket(t - c->since)]++;
		return 1;
	}
	if (c->sent - c->got <= set.depth / 2)
		ask(c);
	return 0;
}

int main(int argc, char **argv)
{
	read_arguments(argc, argv);
	read_queries();
	epoll = epoll_create1(0);
	struct connection *all = calloc(set.connections, sizeof *all);
	from = now() + set.warm * 1e9;
	to = from + set.seconds * 1e9;
	for (int i = 0; i < set.connections; i++)
		dial(&all[i]);
	struct epoll_event event[256];
	while (now() < to) {
		int n = epoll_wait(epoll, event, 256, 10);
		for (int i = 0; i < n; i++) {
			struct connection *c = event[i].data.ptr;
			if (event[i].events & EPOLLOUT && !c->sent) {
				ask(c);
				struct epoll_event only_in = {.events = EPOLLIN, .data.ptr = c};
				epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &only_in);
			}
			if (event[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && take(c)) {
				close(c->fd);
				dial(c);
			}
		}
	}
	double p50 = 0, p99 = 0;
	uint64_t sum = 0;
	for (int b = 0; b < BUCKETS; b++) {
		sum += latency[b];
		if (!p50 && sum && sum >= .5 * seen.finished)
			p50 = bucket_us(b);
		if (!p99 && sum && sum >= .99 * seen.finished)
			p99 = bucket_us(b);
	}
	printf("{\"answered\":%lu,\"qps\":%.0f,\"finished\":%lu,\"connections_per_s\":%.0f,\"opened\":%lu,\"errors\":%lu,"
	       "\"closed_by_peer\":%lu,\"p50_us\":%.1f,\"p99_us\":%.1f,\"all\":%lu,\"bad\":%lu,\"noerror\":%lu,"
	       "\"nxdomain\":%lu,\"with_answer\":%lu,\"octets\":%.1f}\n",
	       seen.answered, seen.answered / set.seconds, seen.finished, seen.finished / set.seconds, seen.opened,
	       seen.errors, seen.closed, p50, p99, seen.all, seen.bad, seen.rcode[0], seen.rcode[3], seen.with_answer,
	       seen.answered ? (double)seen.octets / seen.answered : 0);
	return 0;
}
