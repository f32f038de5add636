//! Every bound of ringpull, with its unit and its reason. Where two bounds depend on each other, the
//! relation is asserted at compile time.
//!
//! A bound that is passed is an error with the bound's name; nothing is ever cut short silently.

use std::time::Duration;

// --- transport -----------------------------------------------------------------------------------

/// Size of the buffer a connection receives into, in bytes. Large completions are cheap ones: at
/// 256 KiB the cost of a completion is below a few per cent of the cost of copying its bytes.
pub const RECV_BUFFER_SIZE: usize = 256 << 10;

/// Smallest such buffer, where the rate is capped, in bytes.
pub const RECV_BUFFER_SIZE_MIN: usize = 4 << 10;

/// Most bytes that a receive waits for (`SO_RCVLOWAT`). More brings nothing, and holds back what
/// could be hashed.
pub const LOW_WATER_MAX: u64 = RECV_BUFFER_SIZE as u64;

/// How long a receive may hold bytes back for the sake of a large completion.
pub const LOW_WATER_TIME: Duration = Duration::from_millis(5);

/// How long a receive may hold bytes back when fewer come than they did: then the mark goes. Several times
/// [`LOW_WATER_TIME`].
pub const LOW_WATER_HOLD: Duration = Duration::from_millis(20);

/// Bytes of a body after which its rate is known well enough for a mark.
pub const LOW_WATER_AFTER: u64 = 1 << 20;

/// Default deadline of each receive of a body: Docker 1.3's, kept because people know it.
pub const RECV_TIMEOUT: Duration = Duration::from_secs(60);

/// Default deadline for one address to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an address has a head start before the next one of its name is tried beside it (RFC 8305
/// section 8, "Connection Attempt Delay").
pub const RACE_DELAY: Duration = Duration::from_millis(250);

/// Most addresses tried at once for one connection. A name can have dozens of addresses in one
/// network that is down.
pub const RACE_ATTEMPTS_MAX: usize = 4;

/// Most attempts that all connections of a pull make beside their first ones, so that a network which
/// is down costs no more descriptors than these.
pub const RACE_EXTRA_MAX: usize = 4;

/// How long the addresses of a name are used before it is looked up again. Names of registries and
/// storages live for a minute or more; a change within half of one is met by a failed connection,
/// which forgets the addresses at once.
pub const NAME_LIFETIME: Duration = Duration::from_secs(30);

/// Most names whose addresses are kept at once. A redirect can name any host, so a peer could name
/// many; a pull from a real registry needs three or four.
pub const NAMES_KEPT_MAX: usize = 64;

/// Most addresses that are used of one name. Round-robin names have up to a dozen, and nobody waits
/// for the deadlines of more.
pub const NAME_ADDRESSES_MAX: usize = 32;

/// Default deadline of a whole TLS handshake.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(30);

/// Default deadline of a whole response head, from the last byte of the request sent.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Default deadline of a whole document: a manifest, an index, a token. Real ones have a few KiB and
/// come with their head; this is as long as one silence may be.
pub const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A document gets one second more for each so many bytes received, so that 4 MiB may come over a slow
/// line, but a peer that sends a byte now and then gains nothing.
pub const DOCUMENT_SPEED_MIN: u64 = 16 << 10;

/// How long the body of a refusal is waited for, in all: it only makes the message better. Nearly all
/// come with their head.
pub const EXCERPT_TIME: Duration = Duration::from_secs(2);

/// How long a body that nobody needs is waited for, in all, so that its connection can be used again:
/// what a new connection over a long line takes. The head of a redirect or a challenge said it all.
pub const DISCARD_TIME: Duration = Duration::from_millis(100);
const _: () = assert!(DISCARD_TIME.as_millis() < EXCERPT_TIME.as_millis());

/// Default deadline for a name to be resolved.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

// --- http ----------------------------------------------------------------------------------------

/// Longest URL accepted from a user or a peer, in bytes. Signed URLs of object stores with a session
/// token are the longest known, at about 4 KiB.
pub const URL_SIZE_MAX: usize = 16 << 10;

/// Longest response head accepted, in bytes. Heads of interim responses (1xx) count towards that of
/// the final one, so it is also the most that a peer can make an exchange keep in memory.
pub const RESPONSE_HEAD_SIZE_MAX: usize = 64 << 10;
// A redirect to the longest URL must fit.
const _: () = assert!(URL_SIZE_MAX < RESPONSE_HEAD_SIZE_MAX);

/// Most fields accepted in one response head. Registries send 10 to 30.
pub const RESPONSE_FIELD_COUNT_MAX: usize = 256;

/// Most interim responses (1xx) accepted before the final one. An honest server sends one or two.
pub const INTERIM_COUNT_MAX: usize = 16;

/// Most bytes of chunk extensions accepted beyond the bytes of payload, in bytes. They mean nothing
/// to ringpull, but a chunk of one byte could carry any number of them (CVE-2024-22019,
/// CVE-2023-39326). Each byte of payload pays for one byte of extensions, and never saves up more
/// than this, so a server may sign each chunk of a large body (80 bytes for 8 KiB or more).
pub const CHUNK_EXTENSION_SIZE_MAX: usize = 16 << 10;

/// Longest trailer section accepted after a chunked body, in bytes. It is read and thrown away.
pub const TRAILER_SIZE_MAX: usize = 16 << 10;

/// How much of a text from a peer an error message shows, in bytes of the text.
pub const SHOWN_SIZE_MAX: usize = 80;

// --- image ---------------------------------------------------------------------------------------

/// Longest repository name, in bytes, with `library/` where Docker adds it (distribution/reference,
/// `RepositoryNameTotalLengthMax`).
pub const REPOSITORY_LENGTH_MAX: usize = 255;

/// Longest tag, in bytes (OCI distribution-spec, section "Pulling manifests").
pub const TAG_LENGTH_MAX: usize = 128;

/// Largest manifest or index read, in bytes: what the distribution specification asks registries to
/// accept, and what containers/image and containerd read (CVE-2020-1702).
pub const MANIFEST_SIZE_MAX: usize = 4 << 20;

/// Deepest nesting of a JSON document from a peer. Real manifests nest 4 deep.
pub const JSON_DEPTH_MAX: usize = 64;

/// Most keys of a JSON object from a peer, with those of the objects around it: they are kept until
/// it ends, and in 4 MiB there could be 500,000. Real ones have a few dozen.
pub const JSON_KEYS_MAX: usize = 50_000;

/// Most layers of one manifest. Real images have up to 127 (overlayfs), artifacts have thousands.
pub const LAYERS_MAX: usize = 20_000;

/// Most URLs outside the registry that are read of one layer. Real ones have one.
pub const FOREIGN_URLS_MAX: usize = 4;

/// Most entries of one index. Real ones have a few dozen.
pub const INDEX_ENTRIES_MAX: usize = 20_000;

/// Most indexes on the way from a reference to a manifest.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Most bytes of all documents of one pull, with what they embed: they are kept in memory until the
/// image is registered. Four of the largest; the manifests of all platforms of real images have
/// 100 KiB.
pub const DOCUMENTS_SIZE_MAX: u64 = 16 << 20;
const _: () = assert!(DOCUMENTS_SIZE_MAX >= 2 * MANIFEST_SIZE_MAX as u64);

/// Most documents and blobs of one pull, each digest counted once: each takes about 1 KiB of memory
/// until it is stored.
pub const DESCRIPTORS_MAX: usize = 24_000;
// A manifest with all the layers it may have, its config, and the indexes on the way to it.
const _: () = assert!(DESCRIPTORS_MAX > LAYERS_MAX + 2 + INDEX_DEPTH_MAX);

/// Largest blob a descriptor may promise, in bytes: 16 TiB, ext4's largest file.
pub const BLOB_SIZE_MAX: u64 = 1 << 44;

/// Largest image config that is read for its platform, in bytes (containers/image's limit).
pub const IMAGE_CONFIG_SIZE_MAX: usize = 4 << 20;

// The sizes of all layers of a manifest and its config can be added up without overflow.
const _: () = assert!((LAYERS_MAX as u64 + 1).checked_mul(BLOB_SIZE_MAX).is_some());

// --- registry ------------------------------------------------------------------------------------

/// Most redirects followed for one request. Registries use one or two.
pub const REDIRECTS_MAX: usize = 10;

/// How long a redirect of a blob is used for its further pieces where nobody says how long it is good
/// for: a question a minute is nothing beside a blob that takes so long. Signed URLs are good for 5
/// minutes or more, and one that has expired costs a request.
pub const REDIRECT_LIFETIME_DEFAULT: Duration = Duration::from_secs(60);

/// Longest time a redirect is used, whatever its URL says: the registry is to be able to change its
/// mind about where its blobs are.
pub const REDIRECT_LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);
const _: () = assert!(REDIRECT_LIFETIME_DEFAULT.as_secs() <= REDIRECT_LIFETIME_MAX.as_secs());

/// Largest answer of a token service read, in bytes (containers/image's limit). Tokens have a few
/// KiB.
pub const TOKEN_RESPONSE_SIZE_MAX: usize = 1 << 20;

/// Shortest time a token is taken to be good for, and what is assumed where its service does not say
/// (distribution `spec/auth/token.md`, `expires_in`).
pub const TOKEN_LIFETIME_MIN: Duration = Duration::from_secs(60);

/// Longest time a token is kept, whatever its service says; longer than any pull.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const _: () = assert!(TOKEN_LIFETIME_MIN.as_secs() <= TOKEN_LIFETIME_MAX.as_secs());

/// Largest credential file read, in bytes. One entry has about 100.
pub const CREDENTIAL_FILE_SIZE_MAX: usize = 4 << 20;

/// How much of the body of a refusal is worth reading, in bytes: enough for any registry's list of
/// errors to be whole.
pub const REFUSAL_BODY_SIZE_MAX: usize = 64 << 10;

/// How much of what a registry says in a refusal is shown, in characters after escaping.
pub const REFUSAL_TEXT_LENGTH_MAX: usize = 1 << 10;

/// Longest `Warning` of a registry that is shown, in characters. Real ones are a sentence or two; the
/// specification allows 4096 bytes for all of an answer's.
pub const WARNING_LENGTH_MAX: usize = 512;

/// Most different warnings of a registry that are shown, so that none can flood a log.
pub const WARNINGS_MAX: usize = 8;

// --- store ---------------------------------------------------------------------------------------

/// Longest `index.json` of a layout that is read, in bytes: about 20 000 images. Another tool wrote
/// it, perhaps; it is held in memory whole.
pub const INDEX_SIZE_MAX: u64 = 8 << 20;

/// Longest `oci-layout` that is read, in bytes. A real one has 30.
pub const LAYOUT_FILE_SIZE_MAX: u64 = 4 << 10;

/// Longest record of verified blobs, in bytes: about 60 000 blobs. A longer one is started anew,
/// which costs nothing but hashing again.
pub const VERIFIED_SIZE_MAX: u64 = 8 << 20;

/// Blobs from this size on, in bytes, have their space reserved before the first byte is fetched,
/// so that a full disk is found early. Below it a failed write has cost little.
pub const RESERVE_SIZE_MIN: u64 = 1 << 20;

/// Most bytes that one write gives the kernel. It makes a page of the cache as large as a write, where
/// the file system can (ext4 since Linux 6.16): larger ones save little, and where memory is in pieces,
/// or given back to a virtual machine's host, they are made slowly (3 GiB to a new file: 0.7 to 1.2
/// seconds of CPU in writes of 64 KiB, 0.7 to 3.8 in those of 256 KiB).
pub const WRITE_SIZE: u64 = 64 << 10;
// Receives end at multiples of their buffer's size in the blob, so that these steps are whole.
const _: () = assert!((RECV_BUFFER_SIZE as u64).is_multiple_of(WRITE_SIZE));

/// Size of a block that is written past the page cache, in bytes: large enough for a disk to be fast
/// with one at a time.
pub const BLOCK_SIZE: usize = 256 << 10;

/// What a block's memory, its size and its place in a file are multiples of, in bytes: pages, and
/// logical blocks of all disks (statx(2), STATX_DIOALIGN).
pub const BLOCK_ALIGNMENT: usize = 4 << 10;
const _: () = assert!(BLOCK_SIZE.is_multiple_of(BLOCK_ALIGNMENT));

/// Most blocks that a pull has at once: what a disk that is as fast as the network falls behind now and
/// then. A slower one is written to through the page cache.
pub const BLOCKS_MAX: usize = 48;

/// What part of `--memory` they may take.
pub const BLOCKS_SHARE: u64 = 5;

/// Most of them that are given to the disk at once, if they follow each other.
pub const BLOCKS_PER_WRITE: usize = 4;

/// How long fewer wait for more, before they are written all the same.
pub const BLOCKS_LINGER: Duration = Duration::from_millis(100);

/// Most of them that wait to be hashed.
pub const WARM_BLOCKS_MAX: usize = 24;

/// How far what is hashed may be behind a block that is kept for it, in bytes.
pub const WARM_BEHIND_MAX: u64 = 8 << 20;

/// Default for the smallest blob that is written past the page cache, in bytes. Smaller ones stay in it
/// for who reads them next; whoever unpacks a larger one is slower than a disk that is read in order.
pub const DIRECT_SIZE_MIN: u64 = 32 << 20;

/// How many bytes of a blob are written before the kernel is told to start writing them back. Large
/// enough for a disk to work well, small enough that the fsync at the end finds little left to do.
pub const WRITE_BACK_STEP: u64 = 8 << 20;

/// Size of the buffer a blob on disk is hashed through, in bytes.
pub const HASH_BUFFER_SIZE: usize = 256 << 10;

/// Default for how long another process may hold a layout's lock. It is held for one change of
/// `index.json`: milliseconds, or seconds on a disk that is busy writing back.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest pause between two attempts to take a layout's lock.
pub const LOCK_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Least time between the last write to a file and the moment at which its stamp is recorded. More
/// than a tick of any file system's clock: up to 10 ms (a jiffy) on most, 1 s on ext3, 2 s on FAT.
pub const STAMP_AGE_MIN: Duration = Duration::from_secs(3);

/// How far the time of the last write of a finished blob is set back.
pub const STAMP_BACKDATE: Duration = Duration::from_secs(10);
// Rounded down to FAT's 2 s, and after a while in the disk's queue, it is still old enough.
const _: () = assert!(STAMP_BACKDATE.as_secs() >= STAMP_AGE_MIN.as_secs() + 2);

/// Attempts to open a store's directory that other processes remove as unused at the same time. Each
/// such process does so once, so more than a few mean that the directory cannot be had.
pub const ROOT_TRIES_MAX: u32 = 20;

/// How long after a first signal a pull may take to end by itself: the user was promised a second.
pub const SIGNAL_PATIENCE: Duration = Duration::from_millis(700);

/// How long of that its workers may take. One that waits for a slow disk is left alone then.
pub const STOP_PATIENCE: Duration = Duration::from_millis(250);

/// How long, after that, what was received may take to be noted, and synced.
pub const KEEP_PATIENCE: Duration = Duration::from_millis(300);
const _: () =
    assert!(STOP_PATIENCE.as_millis() + KEEP_PATIENCE.as_millis() < SIGNAL_PATIENCE.as_millis());

/// How often a change of `index.json` starts over because a tool that knows no lock has changed it
/// in between. Each time takes milliseconds; a tool that wins so often is not going to stop.
pub const INDEX_ROUNDS_MAX: u32 = 16;

/// How often a JSON file that does not parse is read again: a tool that writes it in place may be
/// in the middle of it.
pub const INDEX_READS_MAX: u32 = 3;

/// Pause before such a file is read again.
pub const INDEX_READ_PAUSE: Duration = Duration::from_millis(20);

/// In how many parts a blob is written, in between of which its journal is: what a process that is
/// killed may lose of it is one of them, 0.4 %.
pub const JOURNAL_PARTS: u64 = 256;

/// Smallest such part, in bytes: less is fetched again as fast as it is noted.
pub const JOURNAL_STEP_MIN: u64 = 256 << 10;

/// Longest journal of a partial blob, in bytes: about 60 000 records. A longer one starts anew, with
/// a record for each range.
pub const JOURNAL_SIZE_MAX: u64 = 4 << 20;

/// How often what was written of a blob is waited for, so that it survives a power cut: what is lost
/// then is about what came in that time.
pub const JOURNAL_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How much of a blob is worth to be waited for before it is whole, in bytes.
pub const JOURNAL_SYNC_MIN: u64 = 1 << 20;

/// How much is waited for when a pull ends early, in bytes: what an old disk writes in half a second.
/// What is beyond survives the process, if not a power cut.
pub const JOURNAL_SYNC_LAST_MAX: u64 = 32 << 20;

/// How long a partial blob is kept since it was last written to. Tags move on; whoever has not come
/// back for a week is not going to.
pub const PARTIAL_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Youngest blob that is removed because no name leads to it. Another tool may have written it, and
/// name it in a moment; the copying of a large image takes minutes.
pub const GARBAGE_AGE_MIN: Duration = Duration::from_secs(3600);

/// How often a file is opened before it is believed that no descriptor is left for it.
pub const OPEN_TRIES: u32 = 4;

/// How long is waited in between: what lies between two blobs that are completed.
pub const OPEN_PAUSE: Duration = Duration::from_millis(10);

/// How many names are tried for a partial file before giving up: unique ones, or the same again while
/// others remove it.
pub const PARTIAL_NAMES_MAX: u32 = 16;

// --- client --------------------------------------------------------------------------------------

/// Idle connections that a thread keeps for one origin. More than can be busy at once are of no use.
pub const IDLE_CONNECTIONS_MAX: usize = JOBS_MAX;

/// How long before its end a token is not used any more: a request may take that long to arrive.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(5);
const _: () = assert!(TOKEN_MARGIN.as_secs() < TOKEN_LIFETIME_MIN.as_secs());

/// The same of a redirect.
pub const REDIRECT_MARGIN: Duration = Duration::from_secs(5);
const _: () = assert!(REDIRECT_MARGIN.as_secs() < REDIRECT_LIFETIME_DEFAULT.as_secs());

/// Most redirects kept at once: several times as many as there are blobs under way. Each has a URL of
/// at most [`URL_SIZE_MAX`] from a peer, so all of them take 4 MiB at the worst.
pub const REDIRECTS_KEPT_MAX: usize = 256;
const _: () = assert!(REDIRECTS_KEPT_MAX >= JOBS_MAX);

/// Most addresses of which it is remembered how they behaved. Names of registries and storages have a
/// few each.
pub const ADDRESSES_KEPT_MAX: usize = 1024;

/// How long a host of which no address answered is not tried again: those that come meanwhile fail at
/// once, instead of waiting for a deadline each. Over before the shortest pause of a retry is, so that
/// no retry is spent on it.
pub const UNREACHABLE_HOLD: Duration = Duration::from_millis(250);
const _: () = assert!(UNREACHABLE_HOLD.as_millis() * 2 <= RETRY_PAUSE_FIRST.as_millis());

// --- pull ----------------------------------------------------------------------------------------

/// Default number of blobs fetched at once.
pub const JOBS: usize = 6;

/// Most threads that fetch. One saturates a line of 10 Gb/s.
pub const WORKERS_MAX: usize = 16;

/// How much `--limit-rate` lets through at once after a pause: a moment's worth.
pub const THROTTLE_BURST: Duration = Duration::from_millis(100);

/// Smallest `--limit-rate`, in bytes per second: one receive a second of the smallest buffer.
pub const LIMIT_RATE_MIN: u64 = 4 << 10;

/// Smallest `--memory`, in bytes: one connection's.
pub const MEMORY_MIN: u64 = CONNECTION_MEMORY;

/// Most connections that a pull has at once, whatever its memory.
pub const CONNECTIONS_MAX: usize = 256;

/// Default for the memory of all buffers of a pull, in bytes.
pub const MEMORY: u64 = 64 << 20;

/// What a connection takes of that, in bytes: a buffer to receive into, over TLS a second one, and an
/// eighth for all that is no such buffer: the TLS session, requests and heads, its share of what the
/// process has anyway. So the whole process is to stay within the budget and its program's text.
pub const CONNECTION_MEMORY: u64 = 2 * RECV_BUFFER_SIZE as u64 * 9 / 8;

/// File descriptors that a connection may need: its socket, one beside it where a registry
/// redirects, and, of its blob and of one that is being verified, the file, the journal, and the
/// directory meanwhile.
pub const CONNECTION_DESCRIPTORS: u64 = 8;

/// File descriptors that the engine of a worker needs: those of its runtime, and a ring.
pub const ENGINE_DESCRIPTORS: u64 = 5;

/// What part of the file descriptors engines may take, where these are few: one worker keeps a fast
/// line busy, and each connection brings more from a server that caps them.
pub const ENGINES_SHARE: u64 = 4;

/// File descriptors that a pull needs besides those that are open when it begins: the engine that
/// resolves references, and the store with its locks. The index is replaced when connections need
/// none any more.
pub const DESCRIPTORS_RESERVED: u64 = 8;

/// Of these, those that come after connections were made, and attempts to connect beside the first
/// ones. Where descriptors are very few, such attempts do without.
pub const DESCRIPTORS_LATER: u64 = 4 + RACE_EXTRA_MAX as u64;

/// How long a connection waits that found no file descriptor left, in this process or in the whole
/// machine, and how long it is one fewer.
pub const DESCRIPTORS_PAUSE: Duration = Duration::from_millis(300);

/// See [`DESCRIPTORS_PAUSE`].
pub const DESCRIPTORS_REST: Duration = Duration::from_secs(10);

/// How often that happens without a piece that was received in between, before it is a failure:
/// some seconds.
pub const DESCRIPTORS_TRIES_MAX: u32 = 20;

/// First piece of a blob whose connection's rate is not known, in bytes. Blobs up to this size are
/// one piece, as long as nothing shows that more connections would have them sooner.
pub const PIECE_FIRST: u64 = 16 << 20;

/// Smallest piece of a fast connection, or one whose rate is not known, in bytes: at 100 ms from question
/// to answer and 40 MB/s, half of the time goes by waiting.
pub const PIECE_SIZE_MIN: u64 = 4 << 20;

/// Smallest piece of a slow connection, in bytes: 4 seconds' worth at 64 KiB/s.
pub const PIECE_SIZE_SLOW_MIN: u64 = 256 << 10;
const _: () = assert!(PIECE_SIZE_SLOW_MIN < PIECE_SIZE_MIN);

/// Part of a second that a connection needs at least for a smallest piece, between those two bounds.
pub const PIECE_TIME_MIN_PART: u64 = 8;

/// Largest blob that is asked for whole at first, in bytes. A larger one is asked for by a range, even
/// if that is all of it: the answer tells whether another connection may have a part.
pub const WHOLE_SIZE_MAX: u64 = 512 << 10;

/// How long a connection should be busy with a piece: long enough that the question between two
/// pieces costs little, short enough that connections can be added and taken away.
pub const PIECE_TIME: Duration = Duration::from_secs(1);

/// How often a blob is asked for again that another process is fetching.
pub const HELD_PAUSE: Duration = Duration::from_millis(100);

/// How long threads that are done with a blob may take to let go of it, before it is verified.
pub const WRITER_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
pub const WRITER_PAUSE: Duration = Duration::from_millis(1);

/// How far hashing may be behind writing before a thread is given to it, in bytes.
pub const HASH_BEHIND_MAX: u64 = 4 << 20;

/// How many bytes the thread that hashes a blob is woken for, if there are not fewer left: few
/// enough to be warm still.
pub const FOLLOW_STEP: u64 = 1 << 20;
const _: () = assert!(FOLLOW_STEP < HASH_BEHIND_MAX);

/// How much of a blob must be left for an idle core to take over its hashing, in bytes.
pub const FOLLOW_SIZE_MIN: u64 = 64 << 20;

/// Most connections to a registry that are opened without proof that more of them pay. Download managers
/// open as many (aria2's `-x` goes up to 16), and servers that limit addresses expect that.
pub const CONNECTIONS_AUTO: usize = 16;

/// Most connections to a registry where nobody asked for a number, however much more they would bring.
pub const CONNECTIONS_AUTO_MAX: usize = 32;
const _: () = assert!(JOBS <= CONNECTIONS_AUTO && CONNECTIONS_AUTO <= CONNECTIONS_AUTO_MAX);
const _: () = assert!(CONNECTIONS_AUTO_MAX <= CONNECTIONS_MAX);

/// How often the number of connections is thought over.
pub const TUNER_INTERVAL: Duration = Duration::from_millis(75);

/// How long bytes are counted for before a number of connections is judged, unless they come evenly.
/// nginx lets a limited connection send a second's worth at once, and then waits
/// (`ngx_http_write_filter_module.c`); a window a little longer holds one burst of each.
pub const TUNER_RHYTHM: Duration = Duration::from_millis(1200);

/// Rate of a connection, in bytes per second, up to which less than a whole window may be a part of a
/// burst: nginx sends 2 MiB at once (`sendfile_max_chunk`).
pub const TUNER_BURST_RATE: u64 = 2 << 20;

/// Fewest ticks that tell whether bytes come evenly.
pub const TUNER_EVEN_TICKS_MIN: usize = 3;

/// Shortest rest of a pull, at the rate that was measured, for which more connections are tried: what
/// a connection costs must be little beside it.
pub const TUNER_WORTH: Duration = Duration::from_secs(1);

/// How many such intervals connections are given to begin: slow ones resolve, connect and shake
/// hands first.
pub const TUNER_TICKS_MAX: u32 = 20;

/// How much more connections that were added must bring to be kept, in per cent.
pub const TUNER_GAIN_MIN: u64 = 15;

/// The same for those beyond [`CONNECTIONS_AUTO`].
pub const TUNER_GAIN_BEYOND: u64 = 50;

/// Share of the growth that is proportional to the number of connections at which they are kept, and more
/// of them are tried at once, in per cent.
pub const TUNER_GAIN_QUICK: u64 = 60;
const _: () = assert!(TUNER_GAIN_MIN < TUNER_GAIN_QUICK);

/// Share of the cores in use above which connections are not what is missing, in per cent.
pub const TUNER_CPU_SHARE_MAX: u64 = 55;

/// Share of all cores below which a pull that finds them busy waits for the network and not for a core,
/// in per cent; what it was ready to use and others had counts.
pub const TUNER_CPU_SHARE_FAIR: u64 = 25;

/// Share of all cores below which a pull is not short of them, however long it waits for one, in per cent:
/// with it, it would receive tens of MB/s.
pub const TUNER_CPU_SHARE_LITTLE: u64 = 4;
const _: () = assert!(TUNER_CPU_SHARE_LITTLE < TUNER_CPU_SHARE_FAIR);

/// Share of the cores in use above which connections stop to share blobs, in per cent. Well above the
/// share at which they begin, for sharing uses more.
pub const TUNER_SPREAD_CPU_MAX: u64 = 90;
const _: () = assert!(TUNER_CPU_SHARE_MAX < TUNER_SPREAD_CPU_MAX);

/// How long nothing is tried after a try that brought nothing, or an objection; doubled each time.
pub const TUNER_REST: Duration = Duration::from_secs(1);

/// Time between two objections that count: connections that break within it broke for one reason.
pub const TUNER_BACK_OFF_MIN: Duration = Duration::from_millis(250);

/// Default for the least that a connection must bring, in bytes per second: a modem's line brings
/// that to each of the connections that a pull begins with, one byte a second does not.
pub const MIN_SPEED: u64 = 256;

/// Shortest time that `--min-speed` is averaged over; otherwise it is the deadline of a receive.
pub const MIN_SPEED_TIME_MIN: Duration = Duration::from_secs(1);

/// How long connections are compared for before one is replaced: a new one on a long line needs most
/// of it to get up to speed.
pub const OUTPACED_TIME: Duration = Duration::from_secs(2);

/// A connection is replaced that gets less than this part of what others do. Connections that share
/// a line differ by less.
pub const OUTPACED_SHARE: u64 = 8;

/// Rate of the others, in bytes per second, below which nothing is compared: what comes within
/// [`OUTPACED_TIME`] is then a matter of chance.
pub const OUTPACED_RATE_MIN: u64 = 128 << 10;

/// How often bytes are asked for again because other connections are faster. If that did not help
/// so often, it is not the connection.
pub const REPLACEMENTS_MAX: u32 = 2;

/// Fewest other connections that one is compared with. A single connection is given a companion when it
/// becomes slow; it is the companion that tells a slow connection from a slow line.
pub const SIBLINGS_MIN: usize = 1;

/// Smallest piece whose rate is compared with, in bytes: of less, the time goes into asking.
pub const SIBLING_SIZE_MIN: u64 = 256 << 10;

/// How long ago a piece may have been received for the last ones under way to be compared with it.
pub const SIBLING_TIME_MAX: Duration = Duration::from_secs(30);

/// Most such pieces that are remembered.
pub const SIBLINGS_SEEN_MAX: usize = 64;

/// How long the last connections must be busy still for half of their rest to be given to idle ones:
/// well above what a new connection costs.
pub const SPLIT_TIME_MIN: Duration = Duration::from_secs(1);

/// The same while there is something else for idle connections to do: a piece that became this long was
/// cut for a faster connection, and what is at the front of a blob is wanted first.
pub const SPLIT_TIME_LONG: Duration = Duration::from_secs(4);
const _: () = assert!(SPLIT_TIME_LONG.as_millis() > 2 * PIECE_TIME.as_millis());

/// Smallest such rest, in bytes.
pub const SPLIT_SIZE_MIN: u64 = 64 << 10;

/// How long a connection must have received for its rate to be known so far.
pub const SPLIT_AGE_MIN: Duration = Duration::from_millis(250);
const _: () = assert!(SPLIT_AGE_MIN.as_millis() < OUTPACED_TIME.as_millis());

/// Most blobs fetched at once that can be asked for: one connection each.
pub const JOBS_MAX: usize = 64;

/// Default number of retries: five attempts in all, as Docker's.
pub const RETRIES: u32 = 4;

/// Most retries that can be asked for.
pub const RETRIES_MAX: u32 = 100;

/// Longest pause before the first retry. It doubles with each further one.
pub const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(500);

/// Longest pause before any retry.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Default for the longest `Retry-After` that is waited for. A longer one is an answer for the user.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Longest deadline that can be asked for: longer ones are mistakes in the unit.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

// --- report --------------------------------------------------------------------------------------

/// Time between two redraws on a terminal: ten times a second looks continuous, and costs nothing
/// beside a pull.
pub const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two progress lines in a log. A log is read later: seldom enough not to bury the
/// state changes, often enough to show that the pull lives.
pub const PROGRESS_LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How long something is waited for before that is shown: people begin to wonder then.
pub const WAIT_SHOWN_AFTER: Duration = Duration::from_secs(1);

/// How often a log's progress is looked at: often enough to know for how long nothing came.
pub const LINES_LOOK_INTERVAL: Duration = Duration::from_secs(1);
const _: () = assert!(LINES_LOOK_INTERVAL.as_millis() < RATE_WINDOW.as_millis());

/// How far back the shown rate looks. Long enough that the number can be read, short enough that a
/// stall shows.
pub const RATE_WINDOW: Duration = Duration::from_secs(3);

/// How much text may wait for whoever reads stderr, in bytes: some 10,000 lines, or minutes of `-v`.
/// What comes while there is no room is counted instead of kept.
pub const REPORT_QUEUE_SIZE_MAX: usize = 1 << 20;

/// Pause before a stream is written to again that can take nothing now and would not say when.
pub const STREAM_PAUSE: Duration = Duration::from_millis(10);

/// How long whoever ends the process waits for its last line to be read.
pub const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(200);
// The user was promised an end within a second of a signal.
const _: () = assert!(SIGNAL_PATIENCE.as_millis() + LAST_WORDS_PATIENCE.as_millis() <= 900);

/// Rows of the terminal that layers never take: the line above them, the summary line, the total
/// line, and the cursor's.
pub const TERMINAL_ROWS_RESERVED: usize = 4;

/// Columns and rows assumed of a terminal that does not tell: those of a VT100.
pub const TERMINAL_SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Longest time left that is shown. Beyond it the estimate says only "slow", which the rate does.
pub const TIME_LEFT_MAX: Duration = Duration::from_secs(100 * 60 * 60);

// A rate needs a sample older than the latest redraw.
const _: () = assert!(REDRAW_INTERVAL.as_millis() < RATE_WINDOW.as_millis());
// --- demo ----------------------------------------------------------------------------------------

/// Most connections that a demo server holds at once; more are closed at once. Each has a thread,
/// and tests of large concurrency need about 1,100.
pub const DEMO_CONNECTIONS_MAX: usize = 4096;

/// Connections that may wait to be accepted by a demo server: a burst of all of them fits.
pub const DEMO_BACKLOG: i32 = 4096;
const _: () = assert!(DEMO_BACKLOG as usize >= DEMO_CONNECTIONS_MAX);

/// Stack of the thread of a demo connection, in bytes. Several times what a TLS handshake takes
/// without optimisation; untouched pages of it cost nothing.
pub const DEMO_THREAD_STACK_SIZE: usize = 512 << 10;

/// Longest request head that a demo server reads, in bytes. Ours stay far below.
pub const DEMO_REQUEST_HEAD_SIZE_MAX: usize = 64 << 10;

/// Longest body, in bytes, that a demo server sends in one write with its head. Above, the copy
/// would cost more than a second write.
pub const DEMO_JOINED_BODY_SIZE_MAX: usize = 16 << 10;
