# Stands for a compiler: reads a source, writes a result.
read -r greeting < greeting.txt
echo "$greeting from version $1"
