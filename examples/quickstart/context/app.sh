read -r message < /app/message.txt
read -r note < /app/data/note
echo "$message, $1 ($note)"
if [ -e /etc/stale ]; then echo "a removed file is still there"; exit 9; fi
echo "uid $(id -u)"
exit 3
