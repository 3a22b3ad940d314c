// Changes a table by the Java implementation of Iceberg, as another engine would, for test_lake_reading.py.
//
//     java -cp 'lib/*' Change.java NAMESPACE.TABLE CHANGE PROPERTY=VALUE...

import java.util.HashMap;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.FileFormat;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.Schema;
import org.apache.iceberg.Table;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.GenericAppenderFactory;
import org.apache.iceberg.data.GenericRecord;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.deletes.EqualityDeleteWriter;
import org.apache.iceberg.deletes.PositionDelete;
import org.apache.iceberg.deletes.PositionDeleteWriter;
import org.apache.iceberg.encryption.EncryptedFiles;
import org.apache.iceberg.encryption.EncryptedOutputFile;
import org.apache.iceberg.encryption.EncryptionKeyMetadata;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.DataWriter;

public class Change {
  private static Table table;

  public static void main(String[] args) throws Exception {
    Map<String, String> properties = new HashMap<>();
    for (int i = 2; i < args.length; i++) {
      int at = args[i].indexOf('=');
      properties.put(args[i].substring(0, at), args[i].substring(at + 1));
    }
    Catalog catalog = CatalogUtil.buildIcebergCatalog("headrace", properties, new Configuration());
    table = catalog.loadTable(TableIdentifier.parse(args[0]));
    switch (args[1]) {
      case "append" -> append(FileFormat.PARQUET);
      case "append-orc" -> append(FileFormat.ORC);
      case "delete-position" -> deletePosition();
      case "delete-key" -> deleteKey();
      case "rename" -> {
        table.updateSchema().renameColumn("key", "renamed").commit();
        append(FileFormat.PARQUET);
      }
      case "compress-metadata" ->
          table.updateProperties().set("write.metadata.compression-codec", "gzip").commit();
      case "upgrade" -> table.updateProperties().set("format-version", "3").commit();
      default -> throw new IllegalArgumentException(args[1]);
    }
    if (args[1].equals("compress-metadata")) {
      append(FileFormat.PARQUET);
    }
    System.exit(0);
  }

  private static EncryptedOutputFile file(FileFormat format) {
    String path = table.location() + "/data/" + System.nanoTime() + "." + format.name().toLowerCase();
    return EncryptedFiles.encryptedOutput(table.io().newOutputFile(path), (EncryptionKeyMetadata) null);
  }

  private static void append(FileFormat format) throws Exception {
    GenericAppenderFactory factory = new GenericAppenderFactory(table.schema(), table.spec());
    DataWriter<Record> writer = factory.newDataWriter(file(format), format, null);
    try (writer) {
      Record record = GenericRecord.create(table.schema());
      record.set(0, 100L);
      record.set(1, "from Java");
      writer.write(record);
    }
    table.newAppend().appendFile(writer.toDataFile()).commit();
  }

  private static void deletePosition() throws Exception {
    GenericAppenderFactory factory = new GenericAppenderFactory(table.schema(), table.spec());
    PositionDeleteWriter<Record> writer =
        factory.newPosDeleteWriter(file(FileFormat.PARQUET), FileFormat.PARQUET, null);
    try (writer; CloseableIterable<FileScanTask> tasks = table.newScan().planFiles()) {
      DataFile first = tasks.iterator().next().file();
      writer.write(PositionDelete.<Record>create().set(first.location(), 0L));
    }
    table.newRowDelta().addDeletes(writer.toDeleteFile()).commit();
  }

  private static void deleteKey() throws Exception {
    Schema key = table.schema().select("key");
    int id = table.schema().findField("key").fieldId();
    GenericAppenderFactory factory =
        new GenericAppenderFactory(table.schema(), table.spec(), new int[] {id}, key, null);
    EqualityDeleteWriter<Record> writer =
        factory.newEqDeleteWriter(file(FileFormat.PARQUET), FileFormat.PARQUET, null);
    try (writer) {
      Record record = GenericRecord.create(key);
      record.set(0, 2L);
      writer.write(record);
    }
    table.newRowDelta().addDeletes(writer.toDeleteFile()).commit();
  }
}
