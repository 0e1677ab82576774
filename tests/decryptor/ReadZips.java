import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Collections;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipInputStream;

/**
 * Extracts archives as `jar -x` does, with or without reading them as a stream; to start a JVM for
 * each takes longer than everything else in these tests.
 *
 * Reads lines of three words separated by tabs: "file" or "stream", the archive, and the directory.
 * Answers each with "read" or "refused".
 */
class ReadZips {
    public static void main(String[] arguments) throws IOException {
        InputStreamReader input = new InputStreamReader(System.in, StandardCharsets.UTF_8);
        BufferedReader requests = new BufferedReader(input);
        for (String line; (line = requests.readLine()) != null; ) {
            String[] words = line.split("\t");
            System.out.println(extracted(words[0], new File(words[1]), new File(words[2])));
            System.out.flush();
        }
    }

    private static String extracted(String how, File archive, File directory) {
        try {
            if (how.equals("stream")) {
                readStream(archive, directory);
            } else {
                readFile(archive, directory);
            }
            return "read";
        } catch (IOException | IllegalArgumentException error) {
            return "refused";
        }
    }

    private static void readFile(File archive, File directory) throws IOException {
        try (ZipFile zip = new ZipFile(archive)) {
            for (ZipEntry entry : Collections.list(zip.entries())) {
                write(zip.getInputStream(entry), entry, directory);
            }
        }
    }

    private static void readStream(File archive, File directory) throws IOException {
        try (ZipInputStream zip = new ZipInputStream(new FileInputStream(archive))) {
            for (ZipEntry entry; (entry = zip.getNextEntry()) != null; ) {
                write(zip, entry, directory);
                zip.closeEntry();
            }
        }
    }

    private static void write(InputStream content, ZipEntry entry, File directory)
            throws IOException {
        File file = new File(directory, entry.getName());
        if (!file.toPath().normalize().startsWith(directory.toPath())) {
            throw new IOException("leaves the directory");
        }
        if (entry.isDirectory()) {
            Files.createDirectories(file.toPath());
        } else {
            Files.createDirectories(file.toPath().getParent());
            Files.write(file.toPath(), content.readAllBytes());
        }
    }
}
