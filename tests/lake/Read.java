// Reads a table by the Java implementation of Iceberg, for test_readers.py: every snapshot that it has, or
// the one named, a line of JSON each.
//
//     java -cp 'lib/*' Read.java NAMESPACE.TABLE PROPERTY=VALUE...

import java.time.OffsetDateTime;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.Table;
import org.apache.iceberg.catalog.Catalog;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.IcebergGenerics;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.types.Types;
import org.apache.iceberg.util.DateTimeUtil;
import org.apache.iceberg.util.JsonUtil;

public class Read {
  public static void main(String[] args) throws Exception {
    Map<String, String> properties = new HashMap<>();
    for (int i = 1; i < args.length; i++) {
      int at = args[i].indexOf('=');
      properties.put(args[i].substring(0, at), args[i].substring(at + 1));
    }
    Catalog catalog = CatalogUtil.buildIcebergCatalog("headrace", properties, new Configuration());
    Table table = catalog.loadTable(TableIdentifier.parse(args[0]));
    for (Snapshot snapshot : table.snapshots()) {
      List<Map<String, Object>> rows = new ArrayList<>();
      try (CloseableIterable<Record> read =
          IcebergGenerics.read(table).useSnapshot(snapshot.snapshotId()).build()) {
        for (Record record : read) {
          rows.add(values(record));
        }
      }
      Map<String, Object> line = new TreeMap<>();
      line.put("snapshot", snapshot.snapshotId());
      line.put("rows", rows);
      line.put("position", table.properties().get("headrace.position.ingest"));
      System.out.println(JsonUtil.mapper().writeValueAsString(line));
    }
    System.exit(0);
  }

  private static Map<String, Object> values(Record record) {
    Map<String, Object> values = new TreeMap<>();
    for (Types.NestedField field : record.struct().fields()) {
      Object value = record.getField(field.name());
      if (value instanceof OffsetDateTime instant) {
        value = DateTimeUtil.microsFromTimestamptz(instant);
      }
      values.put(field.name(), value);
    }
    return values;
  }
}
