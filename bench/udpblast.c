/* udpblast: asks a DNS server over UDP as fast as it answers, or at a fixed rate, and looks at every reply.
 *
 *   udpblast -p PORT -f QUERIES [-t SECONDS] [-W WARM-UP SECONDS] [-w WINDOW | -r RATE [-b BATCHES]] [-S SOURCES]
 *            [-c SOCKETS]
 *
 * QUERIES is a row of `u16 big-endian length, packet`; the id is patched as a packet is sent.
 *   -w  closed loop: so many queries are outstanding at any time. What it reaches is saturation, without loss
 *   -r  open loop: so many queries a second. Latency counts from when a query should have been sent, not from when it was
 *   -b  after each batch so many more whose replies nobody reads: a core can send more than it can both send and read.
 *       `offered` counts all, everything else the rest
 *   -S  so many source addresses of 127.0.0.0/8 on one socket (IP_PKTINFO)
 *   -c  so many connected sockets, for servers that share a port between workers
 *
 * Every reply must be a response to a query that is outstanding and must carry that query's question octet for octet; what
 * is not so counts as `bad`. One JSON line comes out. Only loopback is ever asked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, QUERY_MAX = 1500, REPLY_MAX = 4096, SOCKETS_MAX = 64, IDS = 65536, BUCKETS = 64 * 32 };

static struct {
	const char *address, *file;
	int port, window, sources, sockets, timeout_ms, blind;
	double seconds, warm, rate;
} set = {"127.0.0.1", NULL, 53, 192, 0, 1, 200, 0, 2, 0.3, 0};

/* The queries, and what is outstanding by id. */
static uint8_t *queries;
static uint32_t *offsets;
static long count;
static uint64_t asked_at[IDS];
static uint32_t asked_query[IDS];
static uint8_t outstanding[IDS];
static long in_flight;

static struct {
	uint64_t offered, sent, answered, lost, late, bad, octets, all, rcode[16], with_answer, idle;
} seen;
static uint64_t latency[BUCKETS];

/* Messages to send and room for replies, prepared once. */
static uint8_t out[BATCH][QUERY_MAX], in[BATCH][REPLY_MAX];
static struct mmsghdr out_head[BATCH], in_head[BATCH];
static struct iovec out_iov[BATCH], in_iov[BATCH];
static char control[BATCH][CMSG_SPACE(sizeof(struct in_pktinfo))];
static struct sockaddr_in server = {.sin_family = AF_INET};
static uint32_t *source;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t draw(void)
{
	static uint64_t state = 88172645463325252ull;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* A histogram with 32 steps to each power of two: 3 % wide everywhere. */
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

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void read_arguments(int argc, char **argv)
{
	for (int o; (o = getopt(argc, argv, "s:p:f:t:w:r:S:c:W:T:b:")) != -1;)
		switch (o) {
		case 's': set.address = optarg; break;
		case 'p': set.port = atoi(optarg); break;
		case 'f': set.file = optarg; break;
		case 't': set.seconds = atof(optarg); break;
		case 'w': set.window = atoi(optarg); break;
		case 'r': set.rate = atof(optarg); break;
		case 'S': set.sources = atoi(optarg); break;
		case 'c': set.sockets = atoi(optarg); break;
		case 'W': set.warm = atof(optarg); break;
		case 'b': set.blind = atoi(optarg); break;
		case 'T': set.timeout_ms = atoi(optarg); break;
		default: exit(2);
		}
	if (strncmp(set.address, "127.", 4) || !set.file || set.seconds > 60) {
		fprintf(stderr, "udpblast: loopback only, -f is needed, at most 60 s\n");
		exit(2);
	}
	if (set.sockets < 1 || set.sockets > SOCKETS_MAX)
		set.sockets = 1;
	server.sin_port = htons(set.port);
	if (inet_pton(AF_INET, set.address, &server.sin_addr) != 1)
		fail(set.address);
}

static void read_queries(void)
{
	FILE *file = fopen(set.file, "rb");
	if (!file)
		fail(set.file);
	fseek(file, 0, SEEK_END);
	long size = ftell(file);
	rewind(file);
	queries = malloc(size);
	offsets = malloc(sizeof *offsets * (size / 14 + 2));
	if (!queries || !offsets || fread(queries, 1, size, file) != (size_t)size)
		fail(set.file);
	fclose(file);
	for (long at = 0; at + 2 <= size; at += 2 + (queries[at] << 8 | queries[at + 1]))
		offsets[count++] = at;
	if (!count)
		fail("no queries");
}

static int open_socket(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 16 << 20;
	struct sockaddr_in any = {.sin_family = AF_INET};
	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	if (set.sources ? bind(fd, (void *)&any, sizeof any) : connect(fd, (void *)&server, sizeof server))
		fail("connect");
	return fd;
}

static void prepare(void)
{
	if (set.sources) {
		source = malloc(sizeof *source * set.sources);
		for (int i = 0; i < set.sources; i++)
			source[i] = htonl(0x7f000000u | (1 + (draw() >> 20) % 0xfffffd));
	}
	for (int i = 0; i < BATCH; i++) {
		out_iov[i].iov_base = out[i];
		out_head[i].msg_hdr.msg_iov = &out_iov[i];
		out_head[i].msg_hdr.msg_iovlen = 1;
		in_iov[i] = (struct iovec){in[i], REPLY_MAX};
		in_head[i].msg_hdr.msg_iov = &in_iov[i];
		in_head[i].msg_hdr.msg_iovlen = 1;
		if (set.sources) {
			struct msghdr *head = &out_head[i].msg_hdr;
			head->msg_name = &server;
			head->msg_namelen = sizeof server;
			head->msg_control = control[i];
			head->msg_controllen = sizeof control[i];
			struct cmsghdr *c = CMSG_FIRSTHDR(head);
			c->cmsg_level = IPPROTO_IP;
			c->cmsg_type = IP_PKTINFO;
			c->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
		}
	}
}

/* Puts query `number` into slot `i` with this id. */
static void load(int i, uint16_t id, uint32_t number, uint64_t when)
{
	uint8_t *query = queries + offsets[number];
	int length = query[0] << 8 | query[1];
	memcpy(out[i], query + 2, length);
	out[i][0] = id >> 8;
	out[i][1] = id;
	out_iov[i].iov_len = length;
	outstanding[id] = 1;
	asked_at[id] = when;
	asked_query[id] = number;
	if (set.sources) {
		struct in_pktinfo info = {.ipi_spec_dst.s_addr = source[draw() % set.sources]};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&out_head[i].msg_hdr)), &info, sizeof info);
	}
}

/* Sends a batch whose replies are not looked at; how much of it went out. */
static int send_blind(int fd, int number, uint32_t query)
{
	for (int i = 0; i < number; i++) {
		uint8_t *next = queries + offsets[query];
		out_iov[i].iov_len = next[0] << 8 | next[1];
		memcpy(out[i], next + 2, out_iov[i].iov_len);
		query = query + 1 == (uint32_t)count ? 0 : query + 1;
	}
	int done = sendmmsg(fd, out_head, number, 0);
	return done < 0 ? 0 : done;
}

/* Whether a reply carries the question of the query it has the id of, octet for octet. */
static int same_question(const uint8_t *reply, int length, uint32_t number)
{
	const uint8_t *query = queries + offsets[number] + 2;
	int end = 12;
	while (query[end])
		end += 1 + query[end];
	end += 5;
	return length >= end && !memcmp(reply + 4, query + 4, 2) && !memcmp(reply + 12, query + 12, end - 12);
}

static void take(const uint8_t *reply, int length, uint64_t at, uint64_t from, uint64_t to)
{
	uint16_t id = length >= 12 ? reply[0] << 8 | reply[1] : 0;
	if (length < 12 || !(reply[2] & 0x80)) {
		seen.bad++;
		return;
	}
	if (!outstanding[id]) {
		seen.late++;
		return;
	}
	outstanding[id] = 0;
	in_flight--;
	seen.all++;
	uint64_t when = asked_at[id];
	if (when < from || when >= to)
		return;
	if (!same_question(reply, length, asked_query[id]))
		seen.bad++;
	seen.answered++;
	seen.octets += length;
	seen.rcode[reply[3] & 15]++;
	seen.with_answer += (reply[6] | reply[7]) != 0;
	latency[bucket(at > when ? at - when : 0)]++;
}

static void report(void)
{
	static const double share[] = {.5, .9, .99, .999};
	double at[4] = {0};
	uint64_t sum = 0;
	for (int b = 0, k = 0; b < BUCKETS && k < 4; b++)
		for (sum += latency[b]; k < 4 && seen.answered && sum >= share[k] * seen.answered; k++)
			at[k] = bucket_us(b);
	printf("{\"offered\":%lu,\"sent\":%lu,\"answered\":%lu,\"qps\":%.0f,\"lost\":%lu,\"late\":%lu,\"bad\":%lu,\"p50_us\":%.1f,"
	       "\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"noerror\":%lu,\"nxdomain\":%lu,\"refused\":%lu,"
	       "\"servfail\":%lu,\"with_answer\":%lu,\"octets\":%.1f,\"idle\":%lu,\"all\":%lu}\n",
	       seen.offered, seen.sent, seen.answered, seen.answered / set.seconds, seen.lost, seen.late, seen.bad, at[0], at[1], at[2],
	       at[3], seen.rcode[0], seen.rcode[3], seen.rcode[5], seen.rcode[2], seen.with_answer,
	       seen.answered ? (double)seen.octets / seen.answered : 0, seen.idle, seen.all);
}

int main(int argc, char **argv)
{
	read_arguments(argc, argv);
	read_queries();
	int fd[SOCKETS_MAX];
	for (int i = 0; i < set.sockets; i++)
		fd[i] = open_socket();
	prepare();
	int unread = set.blind ? open_socket() : -1, turn = 0, smallest = 0;
	setsockopt(unread, SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest);
	uint64_t start = now(), from = start + set.warm * 1e9, to = from + set.seconds * 1e9, end = to + 300000000;
	uint64_t swept = start, skipped = 0, sent = 0;
	double gap = set.rate > 0 ? 1e9 / set.rate : 0;
	uint32_t next = 0, oldest = 0, query = draw() % count;
	int out_socket = 0, in_socket = 0;
	for (;;) {
		uint64_t t = now();
		if (t >= end || (t >= to && !in_flight))
			break;
		int moved = 0;
		if (t < to) {
			long n = gap ? (long)((t - start) / gap) - (long)(sent + skipped) : set.window - in_flight;
			if (gap && n > 2000) { /* fell behind by more than a burst: those queries are not sent any more */
				skipped += n - 2000;
				n = 2000;
			}
			if (n > BATCH)
				n = BATCH;
			if (!gap && n < 16 && in_flight > 16)
				n = 0; /* wait until a batch is worth a system call */
			if (in_flight + n > 60000)
				n = 60000 - in_flight;
			if (n > 0 && set.blind && turn++ % (set.blind + 1)) {
				long done = send_blind(unread, n, query);
				query = (query + done) % count;
				sent += done;
				seen.offered += t >= from ? done : 0;
				moved = done > 0;
				n = 0;
			}
			long k = 0;
			for (; k < n && !outstanding[next & 65535]; k++) {
				load(k, next++, query, gap ? start + (uint64_t)((sent + skipped + k) * gap) : t);
				query = query + 1 == (uint32_t)count ? 0 : query + 1;
			}
			int done = k ? sendmmsg(fd[out_socket], out_head, k, 0) : 0;
			if (done < 0)
				done = 0;
			for (long j = done; j < k; j++)
				outstanding[--next & 65535] = 0;
			for (int j = 0; j < done; j++) {
				uint64_t when = asked_at[(next - done + j) & 65535];
				seen.sent += when >= from && when < to;
				seen.offered += when >= from && when < to;
			}
			sent += done;
			in_flight += done;
			moved |= done > 0;
			out_socket = (out_socket + 1) % set.sockets;
		}
		for (int s = 0; s < set.sockets; s++) {
			int got = recvmmsg(fd[in_socket], in_head, BATCH, MSG_DONTWAIT, NULL);
			in_socket = (in_socket + 1) % set.sockets;
			uint64_t at = got > 0 ? now() : 0;
			for (int i = 0; i < got; i++)
				take(in[i], in_head[i].msg_len, at, from, to);
			moved |= got > 0;
		}
		while (oldest != next && !outstanding[oldest & 65535])
			oldest++;
		if (t - swept > 5000000) { /* give up on what is too old, oldest first */
			for (swept = t; oldest != next; oldest++) {
				uint32_t id = oldest & 65535;
				if (!outstanding[id])
					continue;
				if (t <= asked_at[id] || t - asked_at[id] <= set.timeout_ms * 1000000ull)
					break;
				outstanding[id] = 0;
				in_flight--;
				seen.lost += asked_at[id] >= from && asked_at[id] < to;
			}
		}
		seen.idle += !moved;
	}
	for (int id = 0; id < IDS; id++)
		seen.lost += outstanding[id] && asked_at[id] >= from && asked_at[id] < to;
	report();
	return 0;
}
