// A client of wheeltimer in Java 17, with nothing but its standard library, written from protocol.md.
//
//   java Client.java HOST PORT COUNT
//
// schedules COUNT tasks in one group, moves some, cancels some, finishes the rest by their group, and watches
// by subscription that each was scheduled once and ended once. It connects again when the daemon goes away,
// also in the middle: what does no harm twice is sent again, the subscription goes on from its last cursor.
// Copy what you need into your own program; `main` shows how it is used. A JSON library replaces `Json`.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;

public final class Client implements AutoCloseable {
    static final long PATIENCE_MS = 60_000; // how long a daemon may be away
    static final int DEPTH = 500; // requests that wait for their answer at most

    /** The daemon refused; `reply` holds its `error`, `message` and whatever more it says. */
    static final class Refused extends RuntimeException {
        final Map<String, Object> reply;

        Refused(Map<String, Object> reply) {
            super(reply.get("error") + ": " + reply.get("message"));
            this.reply = reply;
        }
    }

    /** The connection was lost before the answer came, and asking again could do harm. */
    static final class OutcomeUnknown extends RuntimeException {
        OutcomeUnknown(String why) {
            super(why);
        }
    }

    private static final class Call {
        final String line;
        final boolean again;
        boolean sent;
        final CompletableFuture<Map<String, Object>> reply = new CompletableFuture<>();

        Call(String line, boolean again) {
            this.line = line;
            this.again = again;
        }
    }

    private final String host;
    private final int port;
    private final ArrayDeque<Call> calls = new ArrayDeque<>(); // without an answer, in order; guarded by this
    private final Semaphore room = new Semaphore(DEPTH);
    private final Thread reader = new Thread(this::run, "wheeltimer");
    private Socket socket; // null while there is no connection; guarded by this
    private boolean closed; // guarded by this
    int lost; // connections

    Client(String host, int port) {
        this.host = host;
        this.port = port;
        reader.setDaemon(true);
        reader.start();
    }

    /** Ask once. `again`: whether the same request may be sent twice, where the first answer was lost. */
    CompletableFuture<Map<String, Object>> ask(Map<String, Object> request, boolean again)
            throws InterruptedException {
        room.acquire();
        Call call = new Call(Json.write(request) + "\n", again);
        call.reply.whenComplete((reply, error) -> room.release());
        synchronized (this) {
            calls.add(call);
            if (socket != null) send(List.of(call));
        }
        return call.reply;
    }

    /** Ask until the daemon has room and is not about to stop; other refusals are thrown. */
    Map<String, Object> sure(Map<String, Object> request, boolean again) throws InterruptedException {
        while (true) {
            Map<String, Object> reply = wait(ask(request, again));
            if (Boolean.TRUE.equals(reply.get("ok"))) return reply;
            if ("full".equals(reply.get("error"))) Thread.sleep((long) reply.getOrDefault("retry_after_ms", 1000L));
            else if ("draining".equals(reply.get("error"))) Thread.sleep(1000);
            else throw new Refused(reply);
        }
    }

    static Map<String, Object> wait(CompletableFuture<Map<String, Object>> reply) throws InterruptedException {
        try {
            return reply.get();
        } catch (ExecutionException error) {
            throw (RuntimeException) error.getCause();
        }
    }

    private void send(Iterable<Call> some) {
        StringBuilder lines = new StringBuilder();
        for (Call call : some) {
            call.sent = true;
            lines.append(call.line);
        }
        try {
            OutputStream out = socket.getOutputStream();
            out.write(lines.toString().getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            // The reader sees it too, and connects again.
        }
    }

    private void run() {
        try {
            while (true) {
                Socket fresh = connect(host, port, System.currentTimeMillis() + PATIENCE_MS);
                synchronized (this) {
                    if (closed) return;
                    socket = fresh;
                    send(calls);
                }
                read(fresh);
                synchronized (this) {
                    socket = null;
                    if (closed) return;
                    lost++;
                    end(call -> call.sent && !call.again, "the connection was lost");
                }
            }
        } catch (OutcomeUnknown | InterruptedException error) {
            synchronized (this) {
                end(call -> true, "no daemon answers");
            }
        }
    }

    private void read(Socket from) {
        try (from) {
            BufferedReader lines = lines(from);
            for (String line; (line = lines.readLine()) != null; ) {
                Map<String, Object> reply = Json.read(line);
                Call call;
                synchronized (this) {
                    // Storage failed: whether it is stored is unknown, and the connection ends. Ask the next daemon.
                    if ("storage".equals(reply.get("error")) && calls.peek().again) continue;
                    call = calls.remove();
                }
                call.reply.complete(reply);
            }
        } catch (IOException | Json.Broken error) {
            // Lost, or half a line before it was: whoever called reads on the next connection.
        }
    }

    private void end(Predicate<Call> which, String why) {
        for (Call call : new ArrayList<>(calls)) {
            if (which.test(call)) {
                calls.remove(call);
                call.reply.completeExceptionally(new OutcomeUnknown(why));
            }
        }
    }

    @Override
    public void close() throws IOException {
        synchronized (this) {
            closed = true;
            if (socket != null) socket.close();
        }
    }

    static BufferedReader lines(Socket socket) throws IOException {
        return new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8));
    }

    static Socket connect(String host, int port, long untilMs) throws InterruptedException {
        for (long waitMs = 50; ; waitMs = Math.min(1000, 2 * waitMs)) {
            Socket socket = new Socket();
            try {
                socket.connect(new InetSocketAddress(host, port), 10_000);
                socket.setTcpNoDelay(true);
                socket.setKeepAlive(true); // notices a peer that is no more, while nothing happens
                return socket;
            } catch (IOException error) {
                if (System.currentTimeMillis() > untilMs) throw new OutcomeUnknown("no daemon answers");
                Thread.sleep(waitMs);
            }
        }
    }

    /** Calls `event` for each event, once, over lost connections, until it returns false; `begun` at the first reply. */
    static void subscribe(
            String host, int port, Map<String, Object> filter, Runnable begun, Predicate<Map<String, Object>> event)
            throws InterruptedException {
        Map<String, Object> request = new LinkedHashMap<>(Map.of("op", "subscribe"));
        request.putAll(filter); // "from" in it: a cursor to begin from
        while (true) {
            try (Socket socket = connect(host, port, System.currentTimeMillis() + PATIENCE_MS)) {
                socket.getOutputStream().write((Json.write(request) + "\n").getBytes(StandardCharsets.UTF_8));
                BufferedReader lines = lines(socket);
                boolean first = true;
                for (String line; (line = lines.readLine()) != null; first = false) {
                    Map<String, Object> said = Json.read(line);
                    if (said.containsKey("event")) {
                        request.put("from", said.get("cursor"));
                        if (!event.test(said)) return;
                    } else if (Boolean.TRUE.equals(said.get("ok"))) {
                        request.putIfAbsent("from", said.get("cursor"));
                        begun.run();
                    } else if (first && !List.of("storage", "full").contains(said.get("error"))) {
                        throw new Refused(said); // lagged at once: events are lost; "cursor" is the oldest there is
                    } else {
                        break; // too slow: what was not sent is in the journal
                    }
                }
            } catch (IOException | Json.Broken error) {
                // Lost, or half a line before it was: go on from the last cursor.
            }
            Thread.sleep(50);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String host = arguments[0];
        int port = Integer.parseInt(arguments[1]), count = Integer.parseInt(arguments[2]);
        String group = "java-" + ProcessHandle.current().pid() + "-" + System.currentTimeMillis();
        Map<String, AtomicInteger> seen = new ConcurrentHashMap<>(); // by id and event
        CountDownLatch ready = new CountDownLatch(1);
        CountDownLatch ended = new CountDownLatch(count);
        Thread watcher = new Thread(() -> {
            try {
                subscribe(host, port, Map.of("group", group, "types", List.of("task.*")), ready::countDown, event -> {
                    String kind = (String) event.get("event");
                    seen.computeIfAbsent(event.get("id") + " " + kind, key -> new AtomicInteger()).incrementAndGet();
                    if (kind.equals("task.done") || kind.equals("task.cancelled")) ended.countDown();
                    return true;
                });
            } catch (InterruptedException | RuntimeException error) {
                System.err.println(error);
                System.exit(1);
            }
        });
        watcher.setDaemon(true);
        watcher.start();
        ready.await();

        long duplicates = 0, rescheduled = 0, cancelled = 0, finished;
        int lost;
        try (Client client = new Client(host, port)) {
            // With an id of our own the same schedule can be sent twice: the second is a duplicate, not a second task.
            List<CompletableFuture<Map<String, Object>>> replies = new ArrayList<>();
            for (int number = 0; number < count; number++) {
                String id = group + "-" + number;
                replies.add(client.ask(Map.of("op", "schedule", "id", id, "group", group, "delay", "1h",
                        "url", "http://127.0.0.1:9/", "body", Map.of("id", id)), true));
            }
            for (var reply : replies) {
                Map<String, Object> said = wait(reply);
                if (!Boolean.TRUE.equals(said.get("ok"))) throw new Refused(said);
                if (Boolean.TRUE.equals(said.get("duplicate"))) duplicates++;
            }
            // With if_version so can a reschedule: the second is a conflict with the version that the first one made.
            replies.clear();
            for (int number = 0; number < count; number += 10) {
                replies.add(client.ask(Map.of("op", "reschedule", "id", group + "-" + number, "delay", "2h",
                        "if_version", 1L), true));
            }
            for (var reply : replies) {
                Map<String, Object> said = wait(reply);
                boolean before = "conflict".equals(said.get("error")) && said.get("version").equals(2L);
                if (!Boolean.TRUE.equals(said.get("ok")) && !before) throw new Refused(said);
                rescheduled++;
            }
            replies.clear();
            for (int number = 0; number < count; number += 3)
                replies.add(client.ask(Map.of("op", "cancel", "id", group + "-" + number), true));
            for (var reply : replies) {
                Map<String, Object> said = wait(reply);
                if (!Boolean.TRUE.equals(said.get("ok"))) throw new Refused(said);
                cancelled++;
            }
            // Asked again, finish counts what is done already as 0: what it did before is in the events.
            Map<String, Object> finish = Map.of("op", "finish", "group", group, "reply", Map.of("paid", true));
            finished = (long) client.sure(finish, true).get("finished");
            ended.await();
            lost = client.lost;
        }
        List<Object> wrong = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            String id = group + "-" + number;
            Map<String, Integer> wanted = Map.of("task.scheduled", 1, "task.rescheduled", number % 10 == 0 ? 1 : 0,
                    "task.cancelled", number % 3 == 0 ? 1 : 0, "task.done", number % 3 == 0 ? 0 : 1);
            for (var want : wanted.entrySet()) {
                AtomicInteger times = seen.getOrDefault(id + " " + want.getKey(), new AtomicInteger());
                if (times.get() != want.getValue()) wrong.add(id + " " + want.getKey() + " " + times);
            }
        }
        Map<String, Object> said = new LinkedHashMap<>();
        said.put("group", group);
        said.put("tasks", (long) count);
        said.put("duplicates", duplicates);
        said.put("rescheduled", rescheduled);
        said.put("cancelled", cancelled);
        said.put("finished", finished);
        said.put("lost", (long) lost);
        said.put("wrong", wrong);
        System.out.println(Json.write(said));
        System.exit(wrong.isEmpty() ? 0 : 1);
    }

    /** As much JSON as the protocol needs: objects are maps, arrays lists, integers longs. */
    static final class Json {
        static final class Broken extends RuntimeException {}

        private final String text;
        private int at;

        private Json(String text) {
            this.text = text;
        }

        @SuppressWarnings("unchecked")
        static Map<String, Object> read(String line) {
            try {
                return (Map<String, Object>) new Json(line).value();
            } catch (IndexOutOfBoundsException | ClassCastException | NumberFormatException error) {
                throw new Broken();
            }
        }

        private char next() {
            while (text.charAt(at) <= ' ') at++;
            return text.charAt(at);
        }

        private Object value() {
            switch (next()) {
                case '{': {
                    Map<String, Object> map = new LinkedHashMap<>();
                    for (at++; next() != '}'; ) {
                        if (next() == ',') at++;
                        next();
                        String name = string();
                        if (next() != ':') throw new Broken();
                        at++;
                        map.put(name, value());
                    }
                    at++;
                    return map;
                }
                case '[': {
                    List<Object> list = new ArrayList<>();
                    for (at++; next() != ']'; ) {
                        if (next() == ',') at++;
                        list.add(value());
                    }
                    at++;
                    return list;
                }
                case '"':
                    return string();
                default: {
                    int from = at;
                    while (at < text.length() && "+-.0123456789Eaeflnrstu".indexOf(text.charAt(at)) >= 0) at++;
                    String word = text.substring(from, at);
                    switch (word) {
                        case "true": return true;
                        case "false": return false;
                        case "null": return null;
                        default: break;
                    }
                    if (word.matches("-?\\d+")) return Long.parseLong(word);
                    return Double.parseDouble(word);
                }
            }
        }

        private String string() {
            if (text.charAt(at) != '"') throw new Broken();
            StringBuilder out = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c != '\\') {
                    out.append(c);
                    continue;
                }
                c = text.charAt(++at);
                int known = "bfnrt".indexOf(c);
                if (c == 'u') {
                    out.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                    at += 4;
                } else {
                    out.append(known < 0 ? c : "\b\f\n\r\t".charAt(known));
                }
            }
            at++;
            return out.toString();
        }

        static String write(Object value) {
            StringBuilder out = new StringBuilder();
            if (value instanceof Map<?, ?> map) {
                String comma = "{";
                for (var member : map.entrySet()) {
                    out.append(comma).append(write(member.getKey())).append(':').append(write(member.getValue()));
                    comma = ",";
                }
                return (map.isEmpty() ? "{" : out) + "}";
            }
            if (value instanceof List<?> list) {
                String comma = "[";
                for (Object item : list) {
                    out.append(comma).append(write(item));
                    comma = ",";
                }
                return (list.isEmpty() ? "[" : out) + "]";
            }
            if (!(value instanceof String text)) return String.valueOf(value); // a number, true, false, null
            out.append('"');
            for (char c : text.toCharArray()) {
                if (c == '"' || c == '\\') out.append('\\').append(c);
                else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
                else out.append(c);
            }
            return out.append('"').toString();
        }
    }
}
